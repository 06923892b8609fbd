"""Small inputs and b0 wherever the property does not depend on size; counts need no memory."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import psla_wds.model
import pytest
import torch
from efficientnet_pytorch import EfficientNet
from psla_wds.errors import CheckpointError, ConfigError
from psla_wds.model import (
    AttentionHead,
    AudioTagger,
    Backbone,
    Head,
    MeanPooling,
    ModelConfig,
    MultiHeadAttention,
    build_model,
    clamp_scores,
    loss,
)


@pytest.fixture(autouse=True)
def one_seeded_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def published_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as efficientnet_pytorch publishes them: three input channels, ImageNet's classes."""
    path = tmp_path_factory.mktemp("published") / "efficientnet-b0-00000000.pth"
    torch.save(EfficientNet.from_name("efficientnet-b0", in_channels=3).state_dict(), path)
    return path


def small_tagger(head: Head = "single-head-attention", num_classes: int = 5) -> AudioTagger:
    config = ModelConfig(backbone="efficientnet-b0", head=head, initial_weights="none")
    return build_model(config, num_classes)


@pytest.mark.parametrize(
    ("backbone", "head", "num_classes", "expected"),
    [
        ("efficientnet-b2", "multi-head-attention", 527, 13_640_766),
        ("efficientnet-b2", "single-head-attention", 527, 9_185_504),
        ("efficientnet-b2", "mean-pooling", 527, 8_442_961),
        ("efficientnet-b0", "single-head-attention", 527, 5_357_146),
        ("efficientnet-b2", "multi-head-attention", 200, 9_954_822),
    ],
)
def test_parameters_are_as_many_as_the_papers(backbone, head, num_classes, expected):
    with torch.device("meta"):
        model = AudioTagger(ModelConfig(backbone=backbone, head=head), num_classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("backbone", get_args(Backbone))
def test_every_backbone_gives_scores(backbone):
    with torch.device("meta"):
        model = AudioTagger(ModelConfig(backbone=backbone), 7)
        assert model(torch.zeros(2, 96, 128)).shape == (2, 7)


@pytest.mark.parametrize(("num_frames", "expected"), [(1056, 33), (3000, 94), (1000, 32)])
def test_features_have_four_rows_and_the_papers_number_of_columns(num_frames, expected):
    with torch.device("meta"):
        trunk = AudioTagger(ModelConfig(), 527).trunk
        features = trunk.extract_features(torch.zeros(1, 1, 128, num_frames))
    assert features.shape == (1, 1408, 4, expected)


def test_padding_is_the_one_for_260x260_images_and_not_for_the_spectrogram():
    with torch.device("meta"):
        trunk = AudioTagger(ModelConfig(), 527).trunk
    assert trunk._conv_stem.static_padding.padding == (0, 1, 0, 1)
    paddings = [block._depthwise_conv.static_padding.padding for block in trunk._blocks]
    strided = {index: paddings[index] for index in (2, 5, 8, 16)}
    assert strided == {2: (0, 1, 0, 1), 5: (2,) * 4, 8: (1,) * 4, 16: (2,) * 4}


def one_head_by_hand(head: AttentionHead, features: torch.Tensor) -> torch.Tensor:
    scores = torch.zeros(len(features), head.attention.out_channels)
    for clip, clip_features in enumerate(features[:, :, 0].transpose(1, 2)):
        for k in range(head.attention.out_channels):
            attentions, frame_scores = (
                [float(torch.sigmoid(x @ conv.weight[k, :, 0, 0] + conv.bias[k])) for x in frames]
                for conv, frames in (
                    (head.attention, clip_features),
                    (head.classifier, clip_features),
                )
            )
            attentions = [min(max(a, 1e-7), 1 - 1e-7) for a in attentions]
            scores[clip, k] = sum(
                a / sum(attentions) * s for a, s in zip(attentions, frame_scores, strict=True)
            )
    return scores


def test_an_attention_head_is_the_papers_formula():
    head, features = AttentionHead(6, 3), torch.randn(2, 6, 1, 4)
    torch.testing.assert_close(head(features), one_head_by_hand(head, features))


def test_attention_is_clamped_so_that_frames_it_all_rejects_weigh_alike():
    head, features = AttentionHead(6, 3), torch.randn(2, 6, 1, 4)
    torch.nn.init.constant_(head.attention.bias, -1000)
    frame_scores = torch.sigmoid(head.classifier(features))
    torch.testing.assert_close(head(features), frame_scores.mean(dim=(2, 3)))


def test_heads_are_summed_with_unconstrained_weights():
    head, features = MultiHeadAttention(6, 3, num_heads=4), torch.randn(2, 6, 1, 4)
    assert head.head_weights.tolist() == [0.25] * 4
    head.head_weights.data = torch.tensor([3.0, -1.0, 0.5, 2.0])
    by_hand = [one_head_by_hand(one, features) for one in head.heads]
    expected = 3 * by_hand[0] - by_hand[1] + 0.5 * by_hand[2] + 2 * by_hand[3]
    torch.testing.assert_close(head(features), expected)
    assert (head(features) > 1).any()


def test_mean_pooling_averages_the_scores_of_frames():
    head, features = MeanPooling(6, 3), torch.randn(2, 6, 1, 4)
    frame_scores = [torch.sigmoid(head.classifier(features[..., [t]])) for t in range(4)]
    torch.testing.assert_close(head(features), sum(frame_scores)[..., 0, 0] / 4)


@pytest.mark.parametrize("head", ["single-head-attention", "mean-pooling"])
def test_single_heads_start_he_uniform_with_zero_bias(head):
    for conv in small_tagger(head, num_classes=50).head.children():
        bound = (6 / 1280) ** 0.5
        assert 0.99 * bound < conv.weight.abs().max() <= bound
        assert not conv.bias.any()


def test_several_heads_start_as_torch_starts_a_convolution():
    for one in small_tagger("multi-head-attention", num_classes=50).head.heads:
        for conv in (one.attention, one.classifier):
            bound = 1280**-0.5
            assert 0.99 * bound < conv.weight.abs().max() <= bound
            assert conv.bias.any()


def test_the_tagger_pools_four_rows_as_the_official_code_does():
    model, log_mel = small_tagger().eval(), torch.randn(2, 64, 128)
    features = model.trunk.extract_features(log_mel.mT[:, None])
    expected = model.head(torch.nn.AvgPool2d((4, 1))(features))
    torch.testing.assert_close(model(log_mel), expected)


def test_scores_do_not_depend_on_which_clips_share_the_batch():
    model, log_mel = small_tagger().eval(), torch.randn(3, 64, 128)
    alone = torch.cat([model(clip[None]) for clip in log_mel])
    torch.testing.assert_close(model(log_mel), alone)


def test_drop_connect_acts_in_training_only():
    model, log_mel = small_tagger(), torch.randn(4, 64, 128)
    for norm in model.trunk.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 0.0
    assert not torch.equal(model(log_mel), model(log_mel))
    model.eval()
    assert torch.equal(model(log_mel), model(log_mel))


def test_without_drop_connect_training_is_deterministic():
    model = AudioTagger(ModelConfig(backbone="efficientnet-b0", drop_connect_rate=0.0), 5)
    log_mel = torch.randn(4, 64, 128)
    assert torch.equal(model(log_mel), model(log_mel))


def test_scores_are_float32_under_autocast_and_so_is_the_loss():
    model, targets = small_tagger(), torch.ones(2, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = model(torch.randn(2, 64, 128))
        error = loss(scores, targets)
    assert scores.dtype == error.dtype == torch.float32
    # A head in bfloat16 would give scores of 8 bits, whatever their type.
    assert not torch.equal(scores, scores.bfloat16().float())
    error.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_loss_is_finite_where_scores_are_certain_and_wrong():
    scores, targets = torch.tensor([[0.0, 1.0, -3.0, 4.0]]), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    assert 15 < float(loss(scores, targets)) < 17
    assert 0 <= float(loss(scores, 1 - targets)) < 1e-6


def test_the_loss_is_mean_cross_entropy_with_soft_targets():
    error = loss(torch.tensor([[0.5, 0.25]]), torch.tensor([[1.0, 0.3]]))
    expected = (
        -(
            torch.log(torch.tensor(0.5))
            + 0.3 * torch.log(torch.tensor(0.25))
            + 0.7 * torch.log(torch.tensor(0.75))
        )
        / 2
    )
    torch.testing.assert_close(error, expected)


def test_a_clamped_score_gets_no_gradient():
    scores = torch.tensor([[-0.2, 0.4, 1.3]], requires_grad=True)
    loss(scores, torch.tensor([[1.0, 1.0, 0.0]])).backward()
    assert (scores.grad != 0).tolist() == [[False, True, False]]


def test_clamped_scores_lie_strictly_within_0_and_1_in_float32():
    clamped = clamp_scores(torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], dtype=torch.bfloat16))
    assert clamped.dtype == torch.float32
    assert ((clamped > 0) & (clamped < 1)).all()
    assert clamped[2] == 0.5


def test_the_same_seed_gives_the_same_weights():
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.nn.utils.parameters_to_vector(small_tagger().parameters())

    first = weights(1)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


def test_the_tagger_traces_as_one_graph():
    model, log_mel = small_tagger("multi-head-attention"), torch.randn(2, 64, 128)
    torch.compile(model, backend="eager", fullgraph=True)(log_mel).sum().backward()
    model.eval()
    exported = torch.export.export(model, (log_mel,)).module()
    torch.testing.assert_close(exported(log_mel), model(log_mel))


def test_channels_last_reaches_the_features_and_changes_no_score():
    model, log_mel = small_tagger().eval(), torch.randn(2, 64, 128)
    expected = model(log_mel)
    model.to(memory_format=torch.channels_last)
    features = model.trunk.extract_features(log_mel.mT[:, None])
    assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(log_mel), expected)


def with_initial_weights(path: object) -> AudioTagger:
    return build_model(ModelConfig(backbone="efficientnet-b0", initial_weights=str(path)), 5)


def test_a_published_file_fills_the_trunk_and_leaves_the_stem_random(published_file):
    published = torch.load(published_file)
    trunk = with_initial_weights(published_file).trunk.state_dict()

    assert trunk["_conv_stem.weight"].shape == (32, 1, 3, 3)
    stem_bound = (1 * 3 * 3) ** -0.5
    assert 0.9 * stem_bound < trunk.pop("_conv_stem.weight").abs().max() <= stem_bound
    assert all(torch.equal(tensor, published[name]) for name, tensor in trunk.items())
    assert published.keys() - trunk.keys() == {"_conv_stem.weight", "_fc.weight", "_fc.bias"}


def test_imagenet_weights_are_downloaded_once_and_nothing_is_printed_as_a_result(
    published_file, tmp_path, monkeypatch, capsys
):
    copy = tmp_path / published_file.name
    copy.write_bytes(published_file.read_bytes())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(psla_wds.model.url_map, "efficientnet-b0", copy.as_uri())
    first = with_initial_weights("imagenet")
    copy.unlink()
    second = with_initial_weights("imagenet")

    published = torch.load(published_file)
    for model in (first, second):
        assert torch.equal(model.trunk._conv_head.weight, published["_conv_head.weight"])
    assert capsys.readouterr().out == ""


def test_a_failed_download_offers_a_local_file_or_random_weights(tmp_path, monkeypatch):
    url = (tmp_path / "efficientnet-b0-00000000.pth").as_uri()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(psla_wds.model.url_map, "efficientnet-b0", url)
    with pytest.raises(ConfigError) as caught:
        with_initial_weights("imagenet")
    what, where, fix = str(caught.value).splitlines()
    assert what.startswith("the ImageNet weights of efficientnet-b0 cannot be downloaded: ")
    assert where == f"  where: {url}"
    assert fix == "  fix:   set --model.initial-weights PATH (a copy of that file) or none (random)"


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("evil"),))


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: path, "cannot be read: No such file or directory"),
        (lambda path: path.parent, "cannot be read: Is a directory"),
        (lambda path: (path.write_bytes(b""), path)[1], "damaged"),
        (lambda path: (path.write_bytes(b"PK\3\4 cut short"), path)[1], "damaged"),
        (lambda path: (path.write_bytes(pickle.dumps(Evil())), path)[1], "could run code"),
        (lambda path: saved(path, {"a": Evil()}), "could run code"),
        (lambda path: saved(path, [torch.ones(2)]), "not a table of named tensors"),
        (lambda path: saved(path, {"epoch": 3}), "not a table of named tensors"),
    ],
    ids=["missing", "folder", "empty", "truncated", "pickle", "object", "list", "number"],
)
def test_a_file_that_holds_no_weights_is_refused(make, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=what) as caught:
        with_initial_weights(path)
    _, where, fix = str(caught.value).splitlines()
    assert where == f"  where: {path}"
    assert "set --model.initial-weights to a copy of https://" in fix
    assert "efficientnet-b0-355c32eb.pth" in fix
    assert not Path("evil").exists()


def test_weights_of_another_backbone_are_refused_with_the_first_difference(published_file):
    config = ModelConfig(backbone="efficientnet-b2", initial_weights=str(published_file))
    with pytest.raises(CheckpointError) as caught:
        build_model(config, 5)
    what, where, _ = str(caught.value).splitlines()
    assert what == (
        "these are not weights of efficientnet-b2: 345 tensors differ, first "
        "_blocks.1._depthwise_conv.weight (file: (96, 1, 3, 3), efficientnet-b2: (16, 1, 3, 3))"
    )
    assert where == f"  where: {published_file}"


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_a_file_that_differs_in_one_tensor_is_refused(change, published_file, tmp_path):
    tensors = dict(torch.load(published_file))
    name = "_conv_head.weight"
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors[name := "_conv_head.bias"] = torch.zeros(1280)
    else:
        tensors[name] = tensors[name][:-1]
    path = saved(tmp_path / "weights.pth", tensors)
    with pytest.raises(CheckpointError, match=rf"1 tensors differ, first {name}"):
        with_initial_weights(path)


def test_a_file_without_batch_norm_counters_is_accepted(published_file, tmp_path):
    tensors = torch.load(published_file)
    older = {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
    model = with_initial_weights(saved(tmp_path / "weights.pth", older))
    assert torch.equal(model.trunk._conv_head.weight, tensors["_conv_head.weight"])


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ({"num_heads": 0}, "--model.num-heads"),
        ({"drop_connect_rate": 1.0}, "--model.drop-connect-rate"),
        ({"drop_connect_rate": -0.1}, "--model.drop-connect-rate"),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_with_its_flag(setting, flag):
    with pytest.raises(ConfigError, match=flag):
        ModelConfig(**setting)
