"""Numbers of replicas: how many engines there are, and when there are more."""

from msrrec.config import ServeConfig


def count_places(limits: ServeConfig) -> int:
    """Messages to one engine deployment that may be under way: one for each request at work."""
    return limits.fusion_replicas * limits.max_ongoing_requests


def target_ongoing(limits: ServeConfig) -> int:
    """Messages under way per engine at which autoscaling aims.

    Twice ``max_replicas`` would be wanted if all places were taken. So the maximum is reached even
    where admission control lets only half of them through, as deadlines are in danger.
    """
    if limits.target_ongoing_requests is not None:
        return limits.target_ongoing_requests
    return max(1, count_places(limits) // (2 * limits.max_replicas))


def replica_options(limits: ServeConfig) -> dict[str, object]:
    """Ray Serve's options for the number of one deployment's engines."""
    if limits.max_replicas == limits.min_replicas:
        return {"num_replicas": limits.min_replicas}
    scaling = {
        "min_replicas": limits.min_replicas,
        "max_replicas": limits.max_replicas,
        "target_ongoing_requests": target_ongoing(limits),
        "upscale_delay_s": limits.upscale_delay_s,
        "downscale_delay_s": limits.downscale_delay_s,
    }
    return {"autoscaling_config": scaling}


def shutdown_seconds(limits: ServeConfig) -> float:
    """Seconds that a replica has to end its requests: as long as one may take, with its body."""
    return limits.deadline_s + limits.body_timeout_s
