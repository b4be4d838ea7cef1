"""`dinodeploy serve`: a bundle as an HTTP service.

    settings.py     what a service is started with        service.py   bytes -> embeddings, no HTTP in it
    keys.py rate.py who may ask, and how often            batching.py  pictures of many requests in one run
    guard.py        every request: keys, limits, log      neighbours.py  the index behind /search
    app.py          the routes (FastAPI)                  fetch.py     pictures by URL, fenced in
    server.py       one process, drained on SIGTERM       page.py      the page at /
    workers.py      several, replaced when they die       ray_app.py   the same routes under Ray Serve

FastAPI, uvicorn and prometheus_client come with `pip install 'dinodeploy[serve]'`; importing this package
loads none of them.
"""
