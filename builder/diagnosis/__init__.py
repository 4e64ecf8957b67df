"""Causes of failures: patterns of output, classification, watchdog, evidence, and limits."""
