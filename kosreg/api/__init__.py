"""HTTP around the registry: the door that every request passes, and the routes that are not the registry's own."""
