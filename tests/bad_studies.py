"""Studies that are refused, and what each is told."""

from __future__ import annotations

SPACE = "profile: tiny\ndata: generated\nbaseline: {uss.size: mini}\n"


def factor(levels: str, rest: str = "") -> str:
    return f"factors:\n  backbone:\n    baseline: mae\n    levels:\n{levels}{rest}"


LEVELS = "      mae: {uss.family: mae}\n      none: {uss.family: none}\n"


SWITCHES = (
    "factors:\n"
    "  a: {baseline: 'off', levels: {'off': {}, 'on': {crf.enabled: true}}}\n"
    "  b: {baseline: 'off', levels: {'off': {}, 'on': {student.rotate: true}}}\n"
    "  c: {baseline: 'off', levels: {'off': {}, 'on': {uss.relu: true}}}\n"
    "  d: {baseline: 'off', levels: {'off': {}, 'on': {uss.hflip: false}}}\n"
)


def search(space: str, rest: str = "trials: 9\n") -> str:
    return f"design: search\n{rest}space:\n{space}"


CASES = {
    "unknown key": (factor("      mae: {us.family: mae}\n"), "did you mean 'uss.family'?"),
    "a section as a setting": (
        factor("      mae: {uss: mae}\n"), "'uss' is a section, not a setting",
    ),
    "unknown section": (
        factor("      mae: {glue.it: 1}\n"), "(sections: ucis, uss, ot, crf,",
    ),
    "text for a number": (
        factor('      mae: {uss.zoom: "2"}\n'), 'uss.zoom cannot be the text "2"',
    ),
    "a fraction for a count": (
        factor("      mae: {rounds.count: 1.5}\n"), "expected a whole number >= 0",
    ),
    "a number for a switch": (
        factor("      mae: {crf.enabled: 1}\n"), "expected true or false",
    ),
    "a switch for a number": (
        factor("      mae: {rounds.count: yes}\n"),
        "rounds.count cannot be yes",
    ),
    "off for a word": (
        factor("      mae: {uss.family: off}\n"),
        "YAML reads off without quotes as false",
    ),
    "one value for a list": (
        factor("      mae: {infer.scales: 1.0}\n"),
        "expected a list of 1 to 100 values, each a number >= 0.01",
    ),
    "1e-3": (
        factor("      mae: {ot.lambda: 1e-3}\n"),
        "YAML reads 1e-3 as text, not as a number: write 1.0e-3",
    ),
    "out of range": (
        factor("      mae: {select.value: 1.5}\n"), "expected a number >= 0 and <= 1",
    ),
    "a rule of a section": (
        factor("      mae: {ucis.model: files}\n"), "s.yaml:7:25  ucis.model: files needs",
    ),
    "off as a label": (
        factor("      mae: {}\n      off: {ot.enabled: false}\n"),
        "'off' without quotes is a YAML keyword, not a name",
    ),
    "a level twice": (factor(LEVELS + "      mae: {}\n"), "duplicate key 'mae'"),
    "unknown baseline": (
        factor(LEVELS).replace("baseline: mae", "baseline: mea"), "did you mean 'mae'?",
    ),
    "no baseline": (
        factor(LEVELS).replace("    baseline: mae\n", ""), "factor 'backbone' has no baseline",
    ),
    "no levels": ("factors: {backbone: {baseline: mae}}\n", "factor 'backbone' has no levels"),
    "unknown level in exclude": (
        factor(LEVELS, "exclude: [{backbone: nne}]\n"),
        "s.yaml:9:22  unknown level 'nne'",
    ),
    "unknown factor in exclude": (
        factor(LEVELS, "exclude: [{backbon: none}]\n"), "did you mean 'backbone'?",
    ),
    "the baseline excluded": (
        factor(LEVELS, "exclude: [{backbone: mae}]\n"), "this excludes the baseline",
    ),
    "unknown design": ("design: gird\n", "did you mean 'grid'?"),
    "a fraction of another design": (
        "design: grid\nfraction: resolution_iv\n", "fraction goes with design: factorial",
    ),
    "another fraction": (
        "design: factorial\nfraction: half\n" + SWITCHES, "expected resolution_iv",
    ),
    "a fraction of three": (
        "design: factorial\nfraction: resolution_iv\n" + SWITCHES.rpartition("  d:")[0],
        "a fraction needs 4 factors, there are 3",
    ),
    "a fraction with exclude": (
        "design: factorial\nfraction: resolution_iv\n" + SWITCHES + "exclude: [{a: 'on'}]\n",
        "a fraction cannot do with exclude",
    ),
    "a fraction with when": (
        "design: factorial\nfraction: resolution_iv\n"
        + SWITCHES.replace("  d: {", "  d: {when: {a: 'on'}, "),
        "a fraction cannot do with the when of 'd'",
    ),
    "when of a later factor": (
        "design: grid\n" + SWITCHES.replace("  a: {", "  a: {when: {b: 'on'}, "),
        "unknown factor 'b'",
    ),
    "when of an unknown level": (
        "design: grid\n" + SWITCHES.replace("  d: {", "  d: {when: {a: [onn]}, "),
        "did you mean 'on'?  (levels of a: off, on)",
    ),
    "when without levels": (
        "design: grid\n" + SWITCHES.replace("  d: {", "  d: {when: a, "),
        "expected levels of factors",
    ),
    "three levels of a switch": (
        factor(LEVELS + "      dino: {uss.family: dinov1}\n", "design: ladder\n"),
        "a ladder switches each factor between two levels, 'backbone' has 3",
    ),
    "rungs of what is no factor": (
        factor(LEVELS, "design: ladder\nrungs: [[backbon]]\n"), "did you mean 'backbone'?",
    ),
    "rungs that are no lists": (
        factor(LEVELS, "design: ladder\nrungs: [backbone]\n"), "a list of lists of factors",
    ),
    "rungs of another design": (
        factor(LEVELS, "rungs: [[backbone]]\n"), "rungs goes with design: ladder",
    ),
    "a list without a key": (
        "factors: {f: {baseline: 1, levels: [1, 2]}}\n", "a list of levels needs the key it sets",
    ),
    "two factors of one key": (
        "design: grid\nfactors:\n  a: {baseline: x, levels: {x: {ot.lambda: 1}}}\n"
        "  b: {baseline: y, levels: {y: {ot.lambda: 2}}}\n",
        "factors 'a' and 'b' both set ot.lambda",
    ),
    "a grid without end": (
        "design: grid\nfactors:\n"
        + "".join(
            f"  {k}: {{baseline: '0.1', levels: [{', '.join(f'0.{i}' for i in range(1, 10))}]}}\n"
            for k in ("ot.lambda", "select.value", "select.cap", "student.ema", "uss.stride",
                      "student.lr")
        ),
        "this grid has too many combinations",
    ),
    "optimising on test": (
        "objective: {metric: aji, split: test}\n", "may not optimise on a split named test",
    ),
    "unknown metric": ("report: [aji, pqq]\n", "did you mean 'pq'?"),
    "unknown published level": (
        factor(LEVELS, "published: {source: x, rows: {mea: {d: {aji: 0.5}}}}\n"),
        "unknown level 'mea'",
    ),
    "published text": (
        factor(LEVELS, "published: {source: x, rows: {mae: {d: {aji: high}}}}\n"),
        "aji cannot be high",
    ),
    "unknown resource": ("resources: {stage: {gpus: 1}}\n", "did you mean 'gpu'?"),
    "optimising on test tiles": (
        search("  ot.lambda: {log: [0.1, 1.0]}\n") + "objective: {metric: aji}\n",
        "aji of generated may not choose: it is a test split",
    ),
    "stopping on test tiles": (
        "objective: {metric: pq, split: val}\nstopping: {rule: asha}\n",
        "pq of generated may not choose",
    ),
    "labels of a proxy": (
        "objective: {metric: aji, split: proxy}\n", "aji reads labels, proxy has none",
    ),
    "the most mistakes": (
        "objective: {metric: fp, mode: max}\n", "s.yaml:3:31  less of fp is better",
    ),
    "the least AJI": ("objective: {metric: aji, mode: min}\n", "leave mode out: it is max"),
    "a count that is best": (
        "objective: {metric: n_predicted}\n", "neither more nor less of n_predicted is better",
    ),
    "a rule over several sections": (
        "baseline: {ucis.model: maskcut, uss.family: none}\n",
        "s.yaml:3:24  ucis.model: maskcut cuts the tokens",
    ),
    "labels of an empty path": ('data: {a: {path: ., labels: ""}}\n', "a path is missing"),
    "no seed": ("seeds: 0\n", "expected 3, [0, 1, 2] or {first: 2, max: 6}"),
    "sequential seeds without an end": ("seeds: {first: 2}\n", "seeds needs the key 'max'"),
    "sequential seeds the wrong way": (
        "seeds: {first: 6, max: 6}\n", "first has to be below max",
    ),
    "sequential seeds of a search": (
        search("  ot.lambda: {log: [0.1, 1.0]}\n") + "seeds: {first: 2, max: 6}\n",
        "sequential seeds do not go with design: search",
    ),
    "a screen of nothing": ("screen: {keep: 0}\n", "expected a whole number >= 1"),
    "a screen by labels": ("screen: {keep: 2, metric: aji}\n", "metric cannot be aji"),
    "a screen without a number": ("screen: {metric: score_std}\n", "screen needs the key 'keep'"),
    "a training that is one, stopped": (
        "baseline: {rounds.schedule: continuous}\nobjective: {metric: agreement}\n"
        "stopping: {rule: asha}\n",
        "not stopped between rounds",
    ),
    "an unknown rule": ("stopping: {rule: ahsa}\n", "did you mean 'asha'?"),
    "no rule": ("stopping: {grace: 2}\n", "stopping needs the key 'rule'"),
    "a reduction to all": ("stopping: {rule: asha, reduction: 1}\n", "a whole number >= 2"),
    "an unknown analysis": ("analysis: {confidnce: 0.9}\n", "did you mean 'confidence'?"),
    "full confidence": ("analysis: {confidence: 1}\n", "expected a number > 0 and < 1"),
    "a correction": ("analysis: {correction: bonferroni}\n", "expected holm or none"),
    "no budget": ("budget: {gpu_hours: 0}\n", "expected a number > 0"),
    "1e-3 in a block": ("analysis: {min_effect: 1e-3}\n", "write 1.0e-3"),
    "a word for a block": ("budget: none\n", "budget has to be a map"),
    "1e-3 in published": (
        factor(LEVELS, "published: {source: x, rows: {mae: {d: {aji: 1e-3}}}}\n"),
        "YAML reads 1e-3 as text, not as a number: write 1.0e-3",
    ),
    "published without numbers": ("published: {source: x}\n", "published needs the key 'rows'"),
    "an unknown published metric": (
        factor(LEVELS, "published: {source: x, rows: {mae: {d: {adj_aij: 0.5}}}}\n"),
        "did you mean 'adj_aji'?",
    ),
    "a search of a grid": ("trials: 3\n", "trials goes with design: search"),
    "a search with factors": (
        search("  ot.lambda: {log: [0.1, 1.0]}\n") + factor(LEVELS),
        "factors does not go with design: search",
    ),
    "a search without a space": (
        "design: search\ntrials: 3\n", "design: search needs the key 'space'",
    ),
    "a search without an end": (
        search("  ot.lambda: {log: [0.1, 1.0]}\n", ""), "design: search needs the key 'trials'",
    ),
    "an unknown sampler": (
        search("  ot.lambda: {log: [0.1, 1.0]}\n", "trials: 9\nsampler: tpee\n"),
        "did you mean 'tpe'?",
    ),
    "a grid of a range": (
        search("  ot.lambda: {log: [0.1, 1.0]}\n", "sampler: grid\n"),
        "sampler: grid cannot list ot.lambda, a log range",
    ),
    "cmaes of words": (
        search("  select.rule: {any: [mean, fixed]}\n", "trials: 9\nsampler: cmaes\n"),
        "sampler: cmaes moves numbers, select.rule is one of a list",
    ),
    "an unknown setting": (search("  ot.lamda: {log: [0.1, 1.0]}\n"), "did you mean 'ot.lambda'?"),
    "a range without a kind": (
        search("  ot.lambda: {step: 2}\n"), "needs one of log, lin, int, any",
    ),
    "an unknown kind": (
        search("  ot.lambda: {log: [0.1, 1.0], setp: 2}\n"), "did you mean 'step'?",
    ),
    "a range upside down": (search("  ot.lambda: {lin: [1.0, 0.1]}\n"), "lin needs low < high"),
    "a log range from nothing": (
        search("  ot.prior: {log: [0, 1.0]}\n"), "log needs 0 < low < high",
    ),
    "one end": (search("  ot.lambda: {log: [0.1]}\n"), "log needs [low, high]"),
    "1e-3 in a range": (
        search("  ot.lambda: {log: [1e-3, 1.0]}\n"), "write 1.0e-3",
    ),
    "a range outside of the setting": (
        search("  select.value: {lin: [0.5, 1.5]}\n"), "select.value cannot be 1.5",
    ),
    "a range of fractions for a count": (
        search("  rounds.count: {lin: [1, 3]}\n"), "write int",
    ),
    "a step of a scale": (
        search("  ot.lambda: {log: [0.1, 1.0], step: 2}\n"), "step goes with int, not with log",
    ),
    "a word twice": (search("  select.rule: {any: [mean, mean]}\n"), "'mean' is listed twice"),
    "an unknown word": (search("  select.rule: {any: [mean, fixd]}\n"), "did you mean 'fixed'?"),
    "a word that needs more": (
        search("  ucis.model: {any: [stain, files]}\n"), "ucis.model: files needs ucis.path",
    ),
    "when of a later setting": (
        search(
            "  select.value: {lin: [0.3, 0.9], when: {select.rule: fixed}}\n"
            "  select.rule: {any: [mean, fixed]}\n"
        ),
        "write it above select.value",
    ),
    "when of an unknown setting": (
        search("  select.value: {lin: [0.3, 0.9], when: {select.rul: fixed}}\n"),
        "did you mean 'select.rule'?",
    ),
    "when of an unknown value": (
        search("  select.value: {lin: [0.3, 0.9], when: {select.rule: fixd}}\n"),
        "did you mean 'fixed'?",
    ),
    "a range that nobody gives": (
        "design: search\ntrials: 9\nspace: [ot.lambda]\n",
        "what this extends gives no range for 'ot.lambda'",
    ),
    "a seed twice": ("seeds: [1, 1]\n", "seed 1 is listed twice"),
    "data without a place": ("data: [monuseg]\n", "where is the data 'monuseg'?"),
    "data that is not there": (
        "data: {mine: {path: nowhere}}\n", "s.yaml:3:21  there is no such folder",
    ),
    "no tiles": ("data: {generated: {test: 0}}\n", "test cannot be 0"),
}  # fmt: skip
