"""The gallery shows what training gets: the same clips, masks, partners and features."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from run_folders import write_run

from eval.gallery import Args, exhibits, open_source
from eval.gallery_page import Exhibit, coloured, gallery
from psla_wds.config import to_json
from psla_wds.errors import ConfigError
from psla_wds.loading.batches import LoaderConfig, evaluation_batches, training_batches
from psla_wds.sampling.augment import NO_PARTNER
from psla_wds.shards.index_files import open_indexes
from train.recipes import DEMO

SVG = "{http://www.w3.org/2000/svg}"
STEP, CLIPS, BATCH = 8, 4, 6
MASKS = replace(DEMO.augment, freq_mask=48, time_mask=128, mixup_rate=0.5)
CONFIG = replace(DEMO, seed=5, batch_size=BATCH, augment=MASKS)


@pytest.fixture(scope="module")
def run_folder(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return write_run(folder, [], **to_json(replace(CONFIG, index=(f"{shards}:train",))))


@pytest.fixture(scope="module")
def shown(run_folder: Path) -> list[Exhibit]:
    return exhibits(open_source(Args(run_folder, step=STEP)), CLIPS)


def test_what_is_shown_last_is_what_the_model_gets_at_that_step(shown: list[Exhibit], shards: Path):
    index = open_indexes([f"{shards}:train"])
    config = LoaderConfig(
        sampler=CONFIG.sampler, augment=CONFIG.augment, features=CONFIG.features, device="cpu"
    )
    with training_batches(
        index, batch_size=BATCH, seed=5, first_step=STEP - 1, config=config
    ) as batches:
        batch = next(iter(batches))
    for i, exhibit in enumerate(shown):
        np.testing.assert_allclose(exhibit.log_mels[3], batch.log_mel[i].numpy(), atol=1e-5)
        assert exhibit.title.startswith(index.clip_id(batch.rows[i]))
    assert len(shown) == CLIPS


def test_stages_differ_by_what_they_are_called_after(shown: list[Exhibit], shards: Path):
    blank = -CONFIG.features.mean / CONFIG.features.std
    mixed = [" mixed with " in exhibit.title for exhibit in shown]
    assert any(mixed) and not all(mixed)  # of these draws some have a partner
    for exhibit, has_partner in zip(shown, mixed, strict=True):
        plain, masked, mix, both = exhibit.log_mels
        changed = masked != plain
        assert changed.any() and np.allclose(masked[changed], blank)
        assert np.allclose(both[changed], blank)
        assert (np.abs(mix - plain).max() > 1e-3) == has_partner
        np.testing.assert_allclose(both[~changed], mix[~changed], atol=1e-5)
    index = open_indexes([f"{shards}:train"])
    config = LoaderConfig(features=CONFIG.features, device="cpu")
    rows = {index.clip_id(row): row for row in range(len(index))}
    with evaluation_batches(index, batch_size=len(index), config=config) as batches:
        clean = next(batches).log_mel.numpy()
    for exhibit in shown:
        row = rows[exhibit.title.split(" (")[0]]
        np.testing.assert_allclose(exhibit.log_mels[0], clean[row], atol=1e-5)
        assert len(exhibit.waveform) == index.num_samples[row]


def test_a_gallery_is_one_svg_with_units(shown: list[Exhibit], tmp_path: Path):
    root = ElementTree.fromstring(gallery(shown, CONFIG.features))
    images = root.findall(f"{SVG}image")
    assert len(images) == 4 * CLIPS
    assert all(image.get("href").startswith("data:image/png;base64,") for image in images)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts.count("2.56 s") == 4 * CLIPS  # 256 frames of 10 ms
    assert "128 mel filters from 20 to 8000 Hz" in texts[-1] and "value 1.02" in texts[-1]


def test_shards_without_a_run_are_shown_by_the_settings_given(shards: Path):
    source = open_source(Args(index=(f"{shards}:train",), clips=2, features=CONFIG.features))
    assert len(source.draws(2).rows) == 2
    assert [exhibit.log_mels[0].shape for exhibit in exhibits(source, 2)] == [(256, 128)] * 2


def test_colours_go_from_dark_to_light():
    steps = coloured(np.linspace(-1, 1, 50, dtype=np.float32)[None], (-1.0, 1.0))[0].astype(int)
    assert (np.diff(steps @ [3, 6, 1]) > 0).all()  # about how light they look
    beyond = coloured(np.array([[-9, 9]], np.float32), (-1.0, 1.0))[0]
    assert beyond.tolist() == [steps[0].tolist(), steps[-1].tolist()]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "nothing to show"),
        ({"index": ("s",), "output": Path("g.png")}, "not an .svg"),
        ({"index": ("s",), "clips": 0}, "count from 1"),
        ({"run": Path("r"), "seed": 4}, "the settings are the run's"),
        ({"run": Path("r"), "augment": CONFIG.augment}, "the settings are the run's"),
    ],
    ids=str,
)
def test_what_cannot_be_shown_is_told(options: dict[str, object], problem: str):
    with pytest.raises(ConfigError, match=problem):
        Args(**options)


def test_a_draw_without_a_partner_says_so(run_folder: Path):
    source = open_source(Args(run_folder, step=STEP))
    draws = source.draws(CLIPS)
    titles = [exhibit.title for exhibit in exhibits(source, CLIPS)]
    for title, partner in zip(titles, draws.partners, strict=True):
        assert title.endswith("not mixed") == (partner == NO_PARTNER)
