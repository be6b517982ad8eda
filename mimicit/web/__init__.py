"""What the two small web servers of this project (the viewer, the endpoint of a model) need before their first page.

::

    strangers ──addresses (where we listen, what we may be called)──> server (limits on every connection) ──> the app
"""
