"""Integers to bytes: reversible transforms, static entropy models, coders; nothing here knows what a tensor means."""
