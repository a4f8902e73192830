"""Adapters written back in the formats that other libraries load, one file a format."""
