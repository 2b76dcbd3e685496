"""Our own portrait matting network: its data, training and ONNX file (MODNet contract, Ke et al. 2022)."""
