"""Text from a language model: by cache and by window, drawn as asked for, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop.data.vocabulary import BOUNDARY, PAD, UNKNOWN, Vocabulary
from gpubackprop.errors import UsageError
from gpubackprop.nn.layer import Layer
from gpubackprop.run.generate import Sampling, generate, sample
from tests.run import toy

LETTERS = Vocabulary.fit(["abcdefg\n"], "characters")
WORDS = ["banana", "bandana", "cabana", "panama", "canal", "banal", "manana", "alpaca"]

GPT = [
    {"embedding": {"num_embeddings": 8, "embedding_dim": 8}},
    {"learned_position": {"max_length": 6}},
    {"gpt_block": {"num_heads": 2}},
    {"layer_norm": {}},
    {"linear": 8},
]
LSTM = [{"embedding": {"num_embeddings": 8, "embedding_dim": 8}}, {"lstm": 8}, {"linear": 8}]


def texts(model, prompt="ab", tokens=12, **options):
    return list(generate(model, LETTERS, 6, prompt, tokens, Sampling(**options)))[-1]


def streaming(model, streams):
    """`model`, of which the embedding says whether it can be fed piece by piece."""
    model.layers[0].streams = streams
    return model


class TestCache:
    @pytest.mark.parametrize("layers", [GPT, LSTM], ids=["gpt", "lstm"])
    def test_writes_what_whole_windows_write(self, layers):
        model = gbp.build(layers, (6,), precision="float64")
        assert model.streams
        tokens = 4  # with the prompt as many as the context
        by_cache = texts(model, tokens=tokens, samples=3)
        streaming(model, False)
        assert not model.streams
        assert texts(model, tokens=tokens, samples=3) == by_cache

    def test_outputs_beyond_the_vocabulary_are_never_drawn(self):
        layers = [{"embedding": {"num_embeddings": 64, "embedding_dim": 8}}, {"lstm": 8}, {"linear": 64}]
        assert len(texts(gbp.build(layers, (6,)), tokens=40, temperature=5.0)[0]) > 2

    def test_each_token_is_fed_once(self):
        model = gbp.build(GPT, (6,))
        seen = []
        block = model.layers[2]
        forward = block.forward
        block.forward = lambda x: (seen.append(x.shape[1]), forward(x))[1]
        texts(model, tokens=8)
        assert seen == [2, 1, 1, 1, 1, 6, 6, 6]  # beyond the context the last six tokens over again

    def test_a_recurrent_model_forgets_nothing_beyond_its_context(self):
        model = gbp.build(LSTM, (6,), precision="float64")
        seen = []
        lstm = model.layers[1]
        forward = lstm.forward
        lstm.forward = lambda x: (seen.append(x.shape[1]), forward(x))[1]
        texts(model, tokens=12)
        assert seen == [2] + [1] * 11


class NextIsNext(Layer):
    """Logits that make each token's successor certain: (T,) -> (T, 8), or (8,) with `last`."""

    symbols = True

    def __init__(self, last=False):
        self.last, self.seen = last, []

    def output_shape(self, shape):
        return (8,) if self.last else (*shape, 8)

    def forward(self, x):
        self.seen.append(x.value.copy())
        logits = 50.0 * np.eye(8)[(x.value + 1) % 8]
        return x.tape.input(logits[:, -1] if self.last else logits)


class TestWindows:
    def test_behind_the_last_token_stands_what_is_not_looked_at(self):
        model = NextIsNext()
        assert texts(model, "ab", 5) == ["abcdefg"]
        assert model.seen[0].shape == (1, 6)

    def test_a_model_of_one_next_token_sees_boundaries_before_the_first(self):
        lines = Vocabulary.fit(["abcdefg"], "characters", [BOUNDARY])
        model = NextIsNext(last=True)
        found = list(generate(model, lines, 4, "", 20))[-1]
        assert found == ["abcdefg"]  # ends at the boundary, which is 0 and comes after g, 7
        np.testing.assert_array_equal(model.seen[0], [[0, 0, 0, 0]])
        np.testing.assert_array_equal(model.seen[2], [[0, 0, 1, 2]])

    def test_other_outputs_are_refused(self):
        model = gbp.build(["flatten", {"linear": 3}, {"reshape": {"shape": [1, 1, 3]}}], (6,))
        with pytest.raises(UsageError, match="language model"):
            texts(model)


class TestDrawing:
    def test_the_same_seed_writes_the_same(self):
        model = gbp.build(LSTM, (6,))
        assert texts(model, seed=3, samples=2) == texts(model, seed=3, samples=2)
        assert texts(model, seed=3) != texts(model, seed=4)

    def test_a_sample_does_not_depend_on_how_many_there_are(self):
        model = gbp.build(LSTM, (6,), precision="float64")
        assert texts(model, samples=4)[:2] == texts(model, samples=2)

    def test_samples_follow_the_distribution(self, rng):
        logits = np.log([[0.5, 0.2, 0.25, 0.05]])
        draw = (np.arange(1000) + 0.5) / 1000
        found = sample(np.repeat(logits, 1000, axis=0), draw)
        np.testing.assert_allclose(np.bincount(found) / 1000, [0.5, 0.2, 0.25, 0.05])

    @pytest.mark.parametrize(
        ("options", "share"),
        [
            ({"temperature": 0.5}, [0.25, 0.04, 0.0625, 0.0025]),
            ({"temperature": 2.0}, np.sqrt([0.5, 0.2, 0.25, 0.05])),
            ({"temperature": 0}, [1, 0, 0, 0]),
            ({"top_k": 1}, [1, 0, 0, 0]),
            ({"top_k": 2}, [0.5, 0, 0.25, 0]),
            ({"top_k": 9}, [0.5, 0.2, 0.25, 0.05]),
            ({"top_p": 0.7}, [0.5, 0, 0.25, 0]),
            ({"top_p": 0.3}, [1, 0, 0, 0]),
            ({"top_p": 1.0}, [0.5, 0.2, 0.25, 0.05]),
            ({"top_k": 3, "top_p": 0.52}, [1, 0, 0, 0]),  # of what top_k has left the first alone is 0.526
        ],
        ids=str,
    )
    def test_temperature_top_k_top_p(self, options, share):
        draw = (np.arange(20_000) + 0.5) / 20_000
        found = sample(np.repeat(np.log([[0.5, 0.2, 0.25, 0.05]]), len(draw), axis=0), draw, **options)
        np.testing.assert_allclose(np.bincount(found, minlength=4) / len(draw), share / np.sum(share), atol=1e-4)

    def test_padding_and_unknown_are_never_written(self):
        words = Vocabulary.fit(["a b c d e f"], "words", [PAD, UNKNOWN])
        model = gbp.build(LSTM, (6,))
        model.layers[2].bias.value[:2] = 100.0
        text = list(generate(model, words, 6, "a", 30))[-1][0]
        assert len(text.split()) == 31
        assert set(text.split()) <= set("abcdef")

    @pytest.mark.parametrize(
        "options",
        [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"samples": 0}, {"tokens": -1}],
        ids=str,
    )
    def test_options_out_of_range(self, options):
        with pytest.raises(UsageError, match=next(iter(options))):
            texts(gbp.build(LSTM, (6,)), **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    (folder / "words.txt").write_text("\n".join(WORDS * 8) + "\n")
    config = {
        "name": "words",
        "device": "cpu",
        "data": {
            "type": "text",
            "path": str(folder / "words.txt"),
            "unit": "lines",
            "validation": 0.1,
            "batch_size": 8,
        },
        "model": [{"embedding": {"num_embeddings": 9, "embedding_dim": 12}}, {"gru": 24}, {"linear": 9}],
        "loss": "cross_entropy",
        "optimizer": {"type": "adam", "lr": 0.02},
        "training": {"epochs": 25},
    }
    return gbp.train(config, run_dir=folder / "run")


class TestRun:
    def test_writes_what_it_was_trained_on(self, trained):
        found = trained.generate("", samples=20, temperature=0.7)
        assert len(set(found)) > 2
        assert sum(word in WORDS for word in found) >= 16
        assert all(word.startswith("pan") for word in trained.generate("pan", samples=5))

    def test_the_command(self, trained, gb):
        def run(*arguments):
            return gb("generate", trained.directory, *arguments)

        code, out, _ = run("--prompt", "pa", "--temperature", "0")
        assert (code, out) == (0, trained.generate("pa", temperature=0)[0] + "\n")
        code, out, _ = run("--samples", "3", "--tokens", "20", "--seed", "5", "--top-k", "3", "--top-p", "0.9")
        assert (code, out.splitlines()) == (0, trained.generate("", 20, seed=5, samples=3, top_k=3, top_p=0.9))
        code, out, err = run("--prompt", "xyz")
        assert (code, out) == (2, "")
        assert "'x'" in err[0]
        assert run("--top-p", "2")[0] == 2

    def test_a_run_that_is_no_language_model(self, data, tmp_path):
        run = gbp.train(toy.config(data, training={"epochs": 1}), run_dir=tmp_path / "run")
        with pytest.raises(UsageError, match="not a language model"):
            run.generate()


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    config = {
        "name": "echo",
        "device": "cpu",
        "data": {"type": "synthetic", "task": "reverse", "length": 2, "samples": 500, "test": 20, "batch_size": 25},
        "model": [
            {"input": "source"},
            {"embedding": {"num_embeddings": 28, "embedding_dim": 32}},
            {"gru": {"hidden_size": 64, "last": True}},
            {"save": "read"},
            {"input": "target"},
            {"embedding": {"num_embeddings": 28, "embedding_dim": 32}},
            {"gru": {"hidden_size": 64, "initial": "read"}},
            {"linear": 28},
        ],
        "loss": "cross_entropy",
        "metrics": ["accuracy"],
        "optimizer": {"type": "adam", "lr": 0.01},
        "training": {"epochs": 25},
    }
    return gbp.train(config, run_dir=tmp_path_factory.mktemp("echo") / "run")


class TestTranslation:
    def test_answers_what_it_reads(self, translator):
        words = ["ab", "zx", "qu", "mn", "no", "k", "t", "ee"]
        answers = [translator.generate(word, temperature=0)[0] for word in words]
        assert sum(answer == word[::-1] for answer, word in zip(answers, words, strict=True)) >= 6, answers
        assert len(translator.generate("ab", samples=3)) == 3

    def test_a_prompt_that_is_too_long_or_empty(self, translator):
        with pytest.raises(UsageError, match="the prompt has 3 tokens; the model was trained on 1 to 2"):
            translator.generate("abc")
        with pytest.raises(UsageError, match="the prompt has 0 tokens"):
            translator.generate()


def test_outputs_beyond_the_vocabulary_are_never_written():
    wide = [*LSTM[:2], {"linear": 64}]  # a round number of outputs for 8 tokens
    model = gbp.build(wide, (6,))
    (text,) = texts(model, prompt="", tokens=60, temperature=9.0)
    assert len(text) == 60


def test_a_temperature_next_to_zero_is_that_of_the_likeliest():
    model = gbp.build(LSTM, (6,))
    assert texts(model, temperature=1e-310) == texts(model, temperature=0)


@pytest.mark.parametrize("options", [{"seed": -1}, {"seed": 2**64}, {"temperature": float("inf")}])
def test_seeds_and_temperatures_out_of_range(options):
    with pytest.raises(UsageError, match=f"{next(iter(options))} must be"):
        texts(gbp.build(LSTM, (6,)), **options)
