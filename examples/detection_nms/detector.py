"""A detector of bright rectangles, and the non-maximum suppression that is put behind it before export.

Logged with the model (`code_paths`), so that whoever exports it can import it.
"""

import torch
from torch import nn

SIZE, STRIDE = 64, 4
CELLS = SIZE // STRIDE


class Detector(nn.Module):
    """Takes images [batch, 1, 64, 64]; returns boxes [batch, 256, 4] (left, top, right, bottom) and their scores."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 1
        for width, stride in ((8, 2), (16, 2), (16, 1), (16, 1)):
            layers += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(channels, 5, 1)  # an objectness, an offset of the centre, and a size for each cell
        y, x = torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij")
        self.register_buffer("cells", torch.stack([x, y], -1).reshape(1, -1, 2).float())

    def raw(self, image):
        """Return [batch, 256, 5]: logit, centre inside the cell (x, y), logarithm of width and height in cells."""
        return self.head(self.features(image)).flatten(2).transpose(1, 2)

    def forward(self, image):
        raw = self.raw(image)
        centre = (self.cells + torch.sigmoid(raw[..., 1:3])) * STRIDE
        half = torch.exp(raw[..., 3:5]) * STRIDE / 2
        return {"boxes": torch.cat([centre - half, centre + half], -1), "scores": torch.sigmoid(raw[..., 0])}


class WithNMS(nn.Module):
    """Keeps the best boxes of a detector that do not overlap a better one; the rest are zeros.

    Written in tensors, without a loop over boxes found: every exporter can follow it, and the batch stays dynamic.
    """

    def __init__(self, detector, most=16, overlap=0.4, threshold=0.5):
        super().__init__()
        self.detector, self.most, self.overlap, self.threshold = detector, most, overlap, threshold

    def forward(self, image):
        found = self.detector(image)
        scores, order = torch.topk(found["scores"], self.most)
        boxes = torch.gather(found["boxes"], 1, order.unsqueeze(-1).expand(-1, -1, 4))
        worse = torch.ones(self.most, self.most, dtype=torch.bool, device=boxes.device).triu(1)
        overlapping = (self.overlaps(boxes) > self.overlap) & worse
        keep = scores > self.threshold
        for i in range(self.most):  # from the best: a box that is kept removes the worse ones that it overlaps
            keep = keep & ~(overlapping[:, i] & keep[:, i : i + 1])
        return {"boxes": boxes * keep.unsqueeze(-1), "scores": scores * keep}

    @staticmethod
    def overlaps(boxes):
        """Intersection over union of all pairs, [batch, n, n]."""
        corner = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
        other = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
        shared = (other - corner).clamp(min=0).prod(-1)
        area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
        return shared / (area[:, :, None] + area[:, None, :] - shared)


def with_nms(detector):
    """The rule's `wrapper`: called with the loaded model, returns the one to export."""
    return WithNMS(detector)
