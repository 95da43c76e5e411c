"""Two images with the truth of every kind of detector."""

import torch

from detectron2.structures import BitMasks, Instances, Keypoints


def make_batch():
    """Images of two sizes, with all the truth that a detector may ask for."""
    generator = torch.Generator().manual_seed(0)
    batch = []
    for height, width in ((96, 128), (128, 96)):
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[0, 10:60, 20:80], masks[1, 40:90, 5:35] = True, True
        truth = Instances((height, width), gt_masks=BitMasks(masks))
        truth.gt_boxes = truth.gt_masks.get_bounding_boxes()
        truth.gt_classes = torch.tensor([3, 50])
        truth.gt_keypoints = Keypoints(torch.tensor([30.0, 50.0, 2.0]).repeat(2, 17, 1))
        batch.append(
            {
                "image": torch.randint(256, (3, height, width), generator=generator).byte(),
                "instances": truth,
                "sem_seg": torch.randint(54, (height, width), generator=generator),
                "height": height,
                "width": width,
            }
        )
    return batch
