"""Estimators of mutual information: one file a method."""
