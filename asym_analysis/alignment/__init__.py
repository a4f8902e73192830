"""Measure: adapters become tables that say what A and B learned, against chance and initialization."""
