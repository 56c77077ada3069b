"""Search over HTTP: `app.create_app` makes the application, `server.serve` runs it, page/ is what a browser loads."""
