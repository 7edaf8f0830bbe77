"""The embedded world's purchases in the format of Amazon's reviews of 2014."""

import gzip
import json

from msrrec.embedded.world import make_world


def amazon_files(num_users: int) -> dict[str, bytes]:
    """``reviews.json.gz`` and ``meta.json.gz`` as bytes."""
    lines = amazon_lines(num_users)
    return {f"{name}.json.gz": gzip.compress(text, mtime=0) for name, text in lines.items()}


def amazon_lines(num_users: int) -> dict[str, bytes]:
    """The lines of ``reviews`` and ``meta``."""
    events, items = make_world(num_users, 0)
    reviews = [
        {
            "reviewerID": row["user_id"],
            "asin": row["item_id"],
            "unixReviewTime": int(row["timestamp"]),
            "overall": 5.0,
        }
        for row in events.to_pylist()
    ]
    metas = [
        {"asin": row["item_id"], "title": row["title"], "categories": [row["categories"]]}
        for row in items.to_pylist()
    ]
    return {
        name: "".join(json.dumps(row) + "\n" for row in rows).encode()
        for name, rows in (("reviews", reviews), ("meta", metas))
    }
