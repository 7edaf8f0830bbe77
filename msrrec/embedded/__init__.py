"""Stand-ins that ship with the package: a world, a teacher without a model, a backbone."""
