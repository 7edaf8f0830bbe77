"""The online service: a Ray Serve application with an HTTP API and a web page."""
