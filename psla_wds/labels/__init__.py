"""Classes, their ontology, and manifests of labelled clips."""
