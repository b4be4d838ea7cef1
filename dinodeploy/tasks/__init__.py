"""What a bundle's head predicts, in the pixels of the original images. No torch.

prediction     Prediction, Region and PredictOptions
classify, segment, depth, …: one module per task, raw outputs of one image -> Prediction
predict        images -> predictions; write_predictions -> files
dense          maps between an image's pixels and the input's
"""
