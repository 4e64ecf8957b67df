"""Reports of nightly runs: HTML, Markdown, JUnit, and how many are kept."""
