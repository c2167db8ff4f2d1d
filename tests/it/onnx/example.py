import json

import numpy
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

session = onnxruntime.InferenceSession("detector.onnx")
about = session.get_modelmeta().custom_metadata_map
classes, short_side, long_side = (json.loads(about[key]) for key in ["classes", "short_side", "long_side"])

photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
scale = min(short_side / min(photo.size), long_side / max(photo.size))
resized = photo.resize([round(side * scale) for side in photo.size], Image.Resampling.BILINEAR)
images = numpy.asarray(resized).transpose(2, 0, 1)[None]
boxes, scores, labels, count = session.run(None, {"images": images})

draw = ImageDraw.Draw(photo)
for box, score, label in zip(boxes[0] / scale, scores[0], labels[0]):
    if score > 0.3:
        print(classes[label], f"{score:.4f}", *(f"{edge:.2f}" for edge in box))
        draw.rectangle(box.tolist(), outline="red", width=3)
        draw.text(box[:2].tolist(), f"{classes[label]} {score:.2f}", fill="red")
photo.save("found.jpg")
