"""Sliding windows: equal to the whole image where they must be, and a second try when memory is full."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import DynUNet

from medseg3d.errors import CaseError, UsageError
from medseg3d.inference import SlidingWindow


class Scale(torch.nn.Module):
    """Two channels, x and 2x; counts the windows of each call, and fails above a number of them."""

    def __init__(self, most_windows: int | None = None) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.most_windows = most_windows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        if self.most_windows is not None and len(x) > self.most_windows:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return torch.cat([x, 2 * x], dim=1)


class LeftToRight(torch.nn.Module):
    """Adds the index along the first axis: not symmetric under mirroring."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.arange(x.shape[2], dtype=x.dtype).reshape(1, 1, -1, 1, 1)


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("shape", [(20, 17, 24), (5, 6, 7), (40, 3, 9)], ids=str)
def test_a_voxelwise_network_gives_what_the_whole_image_gives(shape, mode):
    image = torch.rand(1, 1, *shape)
    logits = SlidingWindow((16, 8, 8), sw_batch_size=3, mode=mode)(image, Scale())
    assert logits.shape == (1, 2, *shape)
    torch.testing.assert_close(logits, torch.cat([image, 2 * image], dim=1))


def test_agrees_with_monai():
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    image = torch.rand(1, 1, 20, 24, 18)
    with torch.no_grad():
        ours = SlidingWindow((12, 12, 12), 2, 0.5)(image, network)
        theirs = SlidingWindowInferer((12, 12, 12), 2, 0.5, mode="gaussian")(image, network)
    torch.testing.assert_close(ours, theirs)


def test_mirroring_averages_the_mirrored_answers():
    image = torch.zeros(1, 1, 5, 4, 4)
    plain = SlidingWindow((5, 4, 4))(image, LeftToRight())
    assert plain[0, 0, :, 0, 0].tolist() == [0, 1, 2, 3, 4]
    mirrored = SlidingWindow((5, 4, 4), mirror_axes=[0])(image, LeftToRight())
    assert mirrored[0, 0, :, 0, 0].tolist() == [2, 2, 2, 2, 2]  # (index + (4 - index)) / 2


def test_mirroring_over_three_axes_runs_the_network_eight_times():
    network = Scale()
    SlidingWindow((4, 4, 4), mirror_axes=[0, 1, 2])(torch.rand(1, 1, 4, 4, 4), network)
    assert len(network.batches) == 8


def test_deep_supervision_is_reduced_to_the_full_resolution():
    network = DynUNet(3, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 8, 16], deep_supervision=True, deep_supr_num=1)
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        training = SlidingWindow((16, 16, 16))(image, network.train())  # heads stacked along a second axis
        expected = network(image)[:, 0]
    torch.testing.assert_close(training, expected)


def test_half_precision_is_summed_in_float32():
    image = torch.full((1, 1, 12, 8, 8), 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = SlidingWindow((8, 8, 8))(image, lambda x: (x * 3.140625).bfloat16())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, torch.full_like(logits, 3.140625), rtol=1e-6, atol=0)


def test_full_memory_is_tried_again_with_fewer_windows(caplog):
    network = Scale(most_windows=1)
    image = torch.rand(1, 1, 16, 8, 8)
    logits = SlidingWindow((8, 8, 8), sw_batch_size=4)(image, network)
    torch.testing.assert_close(logits, torch.cat([image, 2 * image], dim=1))
    assert network.batches == [3, 2, 1, 1, 1]
    assert [r.getMessage() for r in caplog.records] == [
        "GPU memory is full with 4 window(s) at a time, sums on cpu; trying with less.",
        "GPU memory is full with 2 window(s) at a time, sums on cpu; trying with less.",
    ]


def test_a_window_that_never_fits_fails_the_case():
    with pytest.raises(CaseError, match="One window of 8×8×8 voxels does not fit in the GPU's free memory"):
        SlidingWindow((8, 8, 8), sw_batch_size=2)(torch.rand(1, 1, 16, 8, 8), Scale(most_windows=0))


def test_other_errors_are_not_taken_for_full_memory():
    def broken(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such layer")

    with pytest.raises(ValueError, match="no such layer"):
        SlidingWindow((8, 8, 8))(torch.rand(1, 1, 8, 8, 8), broken)


def test_impossible_options_are_refused():
    with pytest.raises(UsageError, match="at least one window"):
        SlidingWindow((8, 8, 8), sw_batch_size=0)
    with pytest.raises(UsageError, match=r"mirror_axes is \[3\]; a window of \[8, 8, 8\] has axes \[0, 1, 2\]"):
        SlidingWindow((8, 8, 8), mirror_axes=[3])


@pytest.mark.slow
def test_compiled_network_agrees_and_notices_new_weights():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(4, 2, 1)).eval()
    image = torch.rand(1, 1, 20, 8, 8)  # the last batch of windows is smaller than the others
    plain, compiled = SlidingWindow((8, 8, 8), 3), SlidingWindow((8, 8, 8), 3, compile=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(image, network), plain(image, network), rtol=1e-4, atol=1e-5)
        network.load_state_dict({name: 2 * tensor for name, tensor in network.state_dict().items()})
        torch.testing.assert_close(compiled(image, network), plain(image, network), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_full_gpu_stitches_in_main_memory():
    """A limit on the memory that this process may take stands for a small GPU."""
    network = torch.nn.Conv3d(1, 16, 3, padding=1).cuda()
    image = torch.rand(1, 1, 256, 256, 256)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 400 * 2**20) / total)
    try:
        with torch.no_grad():
            logits = SlidingWindow((64, 64, 64), 4)(image, network)  # 1 GiB of sums
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert logits.device.type == "cpu"
    with torch.no_grad():
        window = network(image[..., :32, :32, :32].cuda()).cpu()
    torch.testing.assert_close(logits[..., 2:30, 2:30, 2:30], window[..., 2:30, 2:30, 2:30], rtol=1e-3, atol=1e-3)
