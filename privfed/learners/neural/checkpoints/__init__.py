"""Training runs on disk: safetensors and JSON, from which a run goes on without paying twice."""
