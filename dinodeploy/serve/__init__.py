"""`dinodeploy serve`: a bundle as an HTTP service.

    settings.py     what a service is started with        service.py   bytes -> embeddings, no HTTP in it
    keys.py rate.py who may ask, and how often            neighbours.py  the index behind /search
    guard.py        every request: keys, limits, log      fetch.py     pictures by URL, fenced in
    app.py          the routes (FastAPI)                  page.py      the page at /
    server.py       one process, drained on SIGTERM       ray_app.py   the same routes under Ray Serve
    workers.py      several, replaced when they die       metrics.py   what is counted

Pictures of many requests meet in one run of the engine by `dinodeploy.batcher`.

FastAPI, uvicorn and prometheus_client come with `pip install 'dinodeploy[serve]'`; importing this package
loads none of them.
"""
