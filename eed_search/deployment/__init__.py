"""From a trained team to files that run elsewhere: ONNX export, the bundle, and the runtime that needs no torch."""
