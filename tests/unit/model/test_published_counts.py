"""What the published systems counted and tabulated holds for their recipes: parameters, virtual layers, skips, curves.

All numbers are written out from shared/spec; the specifications name the logs that they are from.
"""

from importlib import resources

import pytest
import torch

from nutshell.model.accounting import count_params
from nutshell.model.depth import DepthSchedule, VirtualLayer
from nutshell.model.lm import LM
from nutshell.model.rows import of_visit
from nutshell.model.techniques.layer_scale import LayerScale
from nutshell.model.techniques.value_embedding import ValueEmbedding
from nutshell.model.techniques.xsa import XSA
from nutshell.recipe import resolve

PARAMS = {
    "baseline": 17_059_912,
    "sp8192-loop35": 35_944_536,
    "sp8192-loop36": 35_945_560,
    "sp8192-loop45": 35_943_512,
    "share3x9": 6_037_528,
    "share3x12-640": 8_531_230,
    "share-run-g": 22_368_841,
    "share2x6-256": 1_452_296,
    "recur45": 26_998_380,
}

# Steps of each run of the study, and its parameters (recurrence-study-855.md 1.4 and 2). M crashed at its second step;
# its recipe has the curves of K.
STUDY = {
    "ap": (2_000, 15_222_848),
    "bp": (2_000, 7_872_544),
    "c": (2_000, 7_870_496),
    "cp": (2_000, 7_870_496),
    "d": (2_000, 7_878_688),
    "e": (2_000, 9_715_240),
    "f": (2_000, 7_878_688),
    "g": (17_346, 9_707_048),
    "h": (14_313, 11_543_600),
    "i": (14_313, 11_553_840),
    "j": (10_461, 11_543_600),
    "k": (10_122, 11_557_936),
    "l": (14_085, 15_750_192),
    "m": (10_122, 19_950_640),
    "n": (14_125, 11_564_080),
    "o": (10_313, 11_572_272),
    "p": (12_363, 11_577_392),
    "q": (8_961, 11_591_728),
    "r": (9_592, 11_579_440),
    "s": (9_699, 11_584_560),
    "t": (10_195, 11_572_272),
}

# Counts that the specifications give for a changed setting of a recipe.
WIDE_MLP = "model.mlp.mlp_dim=1536"
CHANGED = {
    "167, 9 blocks, mlp x3": ("baseline", [WIDE_MLP], 21_778_504),
    "167, 3 blocks, mlp x3": ("share3x9", [WIDE_MLP], 7_610_392),
    "167, 3 blocks, 768 wide": (
        "share3x12-640",
        ["model.model_dim=768", "model.attention.num_heads=12", "model.attention.num_kv_heads=4", WIDE_MLP],
        12_596_772,
    ),
    "167, 10 blocks": ("share-run-g", ["model.depth.schedule=0-9"], 24_730_705),
    "167, 11 blocks, low-rank q": (
        "share-run-g",
        [
            "model.depth.schedule=0-10",
            "model.inputs.0.buckets=10240",
            'model.attention.q={ kind = "low_rank", rank = 192 }',
        ],
        27_157_593,
    ),
    "686, block 5 alone": ("recur45", ["model.depth.schedule=0-5 5 6-10"], 26_996_324),
    "549": ("recur45", ["model.depth.schedule=0-10", "model.inputs.0.buckets=1536"], 26_928_220),
    "686, 12 blocks": ("recur45", ["model.depth.schedule=0-11"], 29_355_620),
    "686, 576 wide": (
        "recur45",
        ["model.depth.schedule=0-10", "model.model_dim=576", "model.mlp.mlp_dim=1728"],
        33_968_348,
    ),
}


def counts(name, overrides=()):
    """Count the parameters of a recipe's model from the configuration, and of the model as it is built."""
    recipe = resolve(name, overrides).recipe
    with torch.device("meta"):
        model = LM(recipe.model, recipe.schedules)
    return count_params(recipe.model, recipe.schedules), sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize(("name", "published"), PARAMS.items())
def test_parameters(name, published):
    assert counts(name) == (published, published)
    assert f"{published:,}" in header(name)


@pytest.mark.parametrize("run", STUDY)
def test_parameters_of_the_study(run):
    _, published = STUDY[run]
    assert counts(f"study855-{run}") == (published, published)
    assert f"{published:,}" in header(f"study855-{run}")


@pytest.mark.parametrize("case", CHANGED)
def test_parameters_of_a_changed_recipe(case):
    name, overrides, published = CHANGED[case]
    assert counts(name, overrides) == (published, published)


def header(name):
    text = (resources.files("nutshell") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    return text.partition("\n\n")[0]


@pytest.mark.parametrize("run", STUDY)
def test_curves_of_the_study(run):
    # 500 steps of rising momentum and 1,200 of falling rates, whatever a run's steps were.
    steps, _ = STUDY[run]
    optim = resolve(f"study855-{run}").recipe.optim
    assert optim.momentum == ((0.0, 0.85), (round(500 / steps, 3), 0.95))
    assert optim.lr_curve == ((round(1 - 1_200 / steps, 3), 1.0), (1.0, 0.0))


# sp8192-loop36.md 1.3: virtual layers, skips ("rows"), blocks of the encoder and of the decoder.
LAYOUTS = {
    "0-10": (11, 5, [0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10]),
    "0-3 (4-5)x3 6-10": (15, 7, [0, 1, 2, 3, 4, 5, 4], [5, 4, 5, 6, 7, 8, 9, 10]),
    "0-2 (3-5)x3 6-10": (17, 8, [0, 1, 2, 3, 4, 5, 3, 4], [5, 3, 4, 5, 6, 7, 8, 9, 10]),
    "0-2 (3-6)x3 7-10": (19, 9, [0, 1, 2, 3, 4, 5, 6, 3, 4], [5, 6, 3, 4, 5, 6, 7, 8, 9, 10]),
    "0-1 (2-5)x3 6-10": (19, 9, [0, 1, 2, 3, 4, 5, 2, 3, 4], [5, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
}
# The looped schedule of each recipe, and when it begins.
LOOPS = {
    "sp8192-loop45": ("0-3 (4-5)x3 6-10", 0.5),
    "sp8192-loop35": ("0-2 (3-5)x3 6-10", 0.35),
    "sp8192-loop36": ("0-2 (3-6)x3 7-10", 0.35),
}

# The same section's true pairing, by row: target <- source, Lp.k the k-th visit of a block that runs more than once.
PAIRING = {
    "0-10": "L5<-L4 L6<-L3 L7<-L2 L8<-L1 L9<-L0",
    "0-2 (3-5)x3 6-10": "L5.2<-L4.2 L3.3<-L3.2 L4.3<-L5.1 L5.3<-L4.1 L6<-L3.1 L7<-L2 L8<-L1 L9<-L0",
    "0-2 (3-6)x3 7-10": "L5.2<-L4.2 L6.2<-L3.2 L3.3<-L6.1 L4.3<-L5.1 L5.3<-L4.1 L6.3<-L3.1 L7<-L2 L8<-L1 L9<-L0",
}


@pytest.mark.parametrize("text", LAYOUTS)
def test_the_halves_of_a_looped_schedule(text):
    num_layers, num_rows, encoder, decoder = LAYOUTS[text]
    schedule = resolve("sp8192-loop36").recipe.model.depth.variant(text)
    sources, targets = ([getattr(skip, end) for skip in schedule.skips] for end in ("source", "target"))
    assert (schedule.num_layers, len(schedule.skips)) == (num_layers, num_rows)
    blocks = [visit.block for visit in schedule.visits]
    assert (blocks[: len(encoder)], blocks[len(encoder) :]) == (encoder, decoder)
    assert sorted(visit.index for visit in sources) == list(range(len(encoder)))
    assert [visit.index for visit in targets] == list(range(len(encoder), 2 * len(encoder)))


@pytest.mark.parametrize("text", PAIRING)
def test_the_pairing_of_skips_by_row(text):
    schedule = resolve("sp8192-loop36").recipe.model.depth.variant(text)

    def name(visit):
        return f"L{visit.block}.{visit.iteration + 1}" if schedule.num_visits(visit.block) > 1 else f"L{visit.block}"

    rows = {skip.key: f"{name(skip.target)}<-{name(skip.source)}" for skip in schedule.skips}
    assert rows == {f"pop_{row}": pair for row, pair in enumerate(PAIRING[text].split())}


@pytest.mark.parametrize("name", LOOPS)
def test_the_loops_of_sp8192_begin_after_a_flat_phase(name):
    looped, start = LOOPS[name]
    recipe = resolve(name).recipe
    assert recipe.final_schedule.text == looped
    assert [(phase.until, phase.schedule) for phase in recipe.train.phases] == [(start, "0-10")]
    assert recipe.schedules == (recipe.model.depth.variant("0-10"), recipe.final_schedule)


# recur45-686.md 1.3: virtual layer, block, part, layer scale, source and row of the skip that it receives, value
# embedding, XSA.
RECUR45 = [
    (0, 0, "enc", 1.0000, None, None, "", ""),
    (1, 1, "enc", 0.7071, None, None, "", ""),
    (2, 2, "enc", 0.5774, None, None, "", ""),
    (3, 3, "enc", 0.5000, None, None, "", ""),
    (4, 4, "enc", 0.4472, None, None, "", ""),
    (5, 5, "enc", 0.4082, None, None, "", ""),
    (6, 4, "dec", 0.3780, 5, 0, "", ""),
    (7, 5, "dec", 0.3536, 4, 1, "", ""),
    (8, 6, "dec", 0.3333, 3, 2, "", ""),
    (9, 7, "dec", 0.3162, 2, 3, "VE", "XSA"),
    (10, 8, "dec", 0.3015, 1, 4, "VE", "XSA"),
    (11, 9, "dec", 0.2887, 0, 5, "", "XSA"),
    (12, 10, "dec", 0.2774, None, None, "", "XSA"),
]


def test_the_virtual_layers_of_recur45():
    recipe = resolve("recur45").recipe
    schedule = recipe.final_schedule
    with torch.device("meta"):
        model = LM(recipe.model, recipe.schedules)
    assert [describe_layer(model, schedule, visit) for visit in schedule.visits] == RECUR45


def describe_layer(model: LM, schedule: DepthSchedule, visit: VirtualLayer) -> tuple:
    """Read a row of the table off the modules that the model runs at a virtual layer."""
    block = model.blocks[visit.block]
    attention = of_visit(block.attentions, visit)
    (scale,) = [part for part in block.modulate_input if isinstance(part, LayerScale)]
    factor = scale(torch.ones(1, 1, 1), "mlp", visit, None).item()
    skip = next(iter(schedule.skips_into(visit)), None)
    return (
        visit.index,
        visit.block,
        "enc" if visit.index < len(schedule.skips) else "dec",
        round(factor, 4),
        skip.source.index if skip else None,
        int(skip.key.removeprefix("pop_")) if skip else None,
        "VE" if any(isinstance(part, ValueEmbedding) for part in attention.values) else "",
        "XSA" if any(isinstance(part, XSA) for part in attention.heads) else "",
    )
