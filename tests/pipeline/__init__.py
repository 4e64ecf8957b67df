"""Tests of store, plan, runs and catalogue with real processes and toy stages."""
