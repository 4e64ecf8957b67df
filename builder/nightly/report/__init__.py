"""Reports of a night: HTML, Markdown, JUnit, and how long they are kept."""
