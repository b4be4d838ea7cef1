"""The routes of OpenAI's embeddings API, for clients that exist: POST /v1/embeddings, GET /v1/models.

    routes.py    the routes                     names.py   model ids: one for each output of one vector
    inputs.py    a body -> images and texts     embed.py   images and texts -> vectors -> JSON
    messages.py  models and schemas behind OpenAPI

Bodies, limits, decoding, batches and keys are those of the other routes; errors have OpenAI's shape
(`bodies/problems.py`).
"""
