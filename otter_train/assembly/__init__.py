"""From a configuration, a checkpoint or published weights to a model on its device."""
