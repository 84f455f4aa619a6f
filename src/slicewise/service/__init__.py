"""The service: the same predictor over HTTP. `server` starts it, `api` has the routes, a `worker` predicts."""
