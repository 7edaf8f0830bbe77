"""The embedded world's purchases in the format of Amazon's reviews of 2014."""

import gzip
import json

from msrrec.embedded.world import make_world


def amazon_files(num_users: int) -> dict[str, bytes]:
    """``reviews.json.gz`` and ``meta.json.gz`` as bytes."""
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
        name: gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)
        for name, rows in (("reviews.json.gz", reviews), ("meta.json.gz", metas))
    }
