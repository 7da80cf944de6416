"""The shapes of what crosses the API."""
