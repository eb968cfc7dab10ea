"""Audits: what an outsider can measure of a federation's claims, and of any implementation's masks."""
