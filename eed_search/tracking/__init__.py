"""What is kept and shown of a search: MLflow's runs, the report, the door to MLflow's pages."""
