"""`dinodeploy serve`: a bundle as an HTTP service.

    settings.py  options of a service           access.py      API keys and rate limits
    app.py       the routes (FastAPI)           messages.py    models behind OpenAPI
    guard.py     middleware: keys, limits, log  refused.py     error answers and their status codes
    service.py   image bytes -> embeddings      fetch.py       images by URL, public addresses only
    server.py    one process, drains on SIGTERM neighbours.py  the index behind /search
    workers.py   several processes              metrics.py     Prometheus metrics
    ray_app.py   the same routes on Ray Serve words.py     texts: search by words, zero-shot classes
    bodies/      images in requests, numbers and errors in answers, pages
    openai/      the routes of OpenAI's embeddings API: /v1/embeddings, /v1/models
    decoders/    processes that decode untrusted images
    limits/      memory, connections, host names, log lines: limits over all requests

`dinodeploy.batcher` puts images of concurrent requests into one batch.

FastAPI, uvicorn and prometheus_client come with `pip install 'dinodeploy[serve]'`; importing this package
imports none of them.
"""
