"""Recordings of real engines: read, compared with predictions, calibrated from."""
