"""The complete configuration of a cell, one section a method: each stands beside its method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel, Field, model_validator
from pydantic.fields import FieldInfo

from coin_ray.confidence.settings import Mine, Sam, Score, Select
from coin_ray.data.settings import Predictions
from coin_ray.distillation.settings import Infer, Labels, Relabel, Rounds, Student
from coin_ray.imaging.settings import Instances
from coin_ray.metrics.settings import Evaluate
from coin_ray.propagation.settings import Crf, Ot, Uss
from coin_ray.section import YOUNGER, Section, Values
from coin_ray.ucis.settings import Ucis


class Cell(Section):
    """One complete configuration."""

    ucis: Ucis = Ucis()
    uss: Uss = Uss()
    ot: Ot = Ot()
    crf: Crf = Crf()
    instances: Instances = Instances()
    sam: Sam = Sam()
    score: Score = Score()
    mine: Mine = Field(Mine(), json_schema_extra=YOUNGER)
    select: Select = Select()
    labels: Labels = Labels()
    student: Student = Student()
    rounds: Rounds = Rounds()
    infer: Infer = Infer()
    relabel: Relabel = Field(Relabel(), json_schema_extra=YOUNGER)
    evaluate: Evaluate = Evaluate()
    predictions: Predictions = Field(Predictions(), json_schema_extra=YOUNGER)

    @model_validator(mode="after")
    def _cuts_need_tokens(self) -> Cell:
        if self.ucis.model == "maskcut" and self.uss.family == "none" and not self.predictions.path:
            raise ValueError(
                "ucis.model: maskcut cuts the tokens of uss.family, which is none; for its own "
                "instances as the result write evaluate.result: coarse"
            )
        return self

    @model_validator(mode="after")
    def _refreshed_in_time(self) -> Cell:
        """Labels anew every so many epochs or steps of all rounds together: as many rounds, each so
        long, whose labels are its own."""
        rounds, student = self.rounds, self.student
        if isinstance(rounds.refresh, int):
            return self
        number, unit = rounds.refresh.split()
        every, said = int(number), f"rounds.refresh: {rounds.refresh}"
        if rounds.schedule != "continuous":
            raise ValueError(f"{said} needs rounds.schedule: continuous")
        if student.later_lr is not None:
            raise ValueError(
                f"student.later_lr: {student.later_lr:g} begins with the second round, which "
                f"{said} moves; leave it out (the rate of one training falls by student.schedule)"
            )
        if (student.epochs is not None) != unit.startswith("epoch"):
            has = "student.epochs" if student.epochs is not None else "student.iterations"
            raise ValueError(f"{said} is not counted as {has} is; take the unit of that")
        if student.epochs is not None:
            total = rounds.count * student.epochs
            part: Values = {"epochs": every}
        else:
            later = student.later_iterations or student.iterations
            total = student.iterations + (rounds.count - 1) * later if rounds.count else 0
            part = {"iterations": every, "later_iterations": None}
        if total % every or total > 1000 * every:
            raise ValueError(f"{said} makes no 1 to 1000 whole rounds of {total}")
        anew = rounds.model_copy(update={"count": total // every, "refresh": 1})
        # Frozen for everybody else: from here on it is a cell of so many rounds.
        object.__setattr__(self, "rounds", anew)
        object.__setattr__(self, "student", student.model_copy(update=part))
        return self

    @model_validator(mode="after")
    def _ends_with_its_result(self) -> Cell:
        result = self.evaluate.result
        last = int(result[6:]) if result.startswith("round ") else 0
        if result != "final" and last > self.rounds.count:
            raise ValueError(f"evaluate.result: {result} needs rounds.count: {last} or more")
        if last and self.rounds.schedule == "continuous":
            raise ValueError(f"evaluate.result: {result} is of rounds.schedule: restart")
        if result != "final" or self.predictions.path:
            rounds = self.rounds.model_copy(update={"count": last})
            object.__setattr__(self, "rounds", rounds)
        return self


def dotted_fields(
    model: type[BaseModel] = Cell, prefix: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """Every settable key in the study's spelling (``ot.lambda``) with its pydantic field."""
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from dotted_fields(field.annotation, key + ".")
        else:
            yield key, field


def flatten(config: Mapping[str, object], prefix: str = "") -> Values:
    """Nested settings under dotted keys (``ot.lambda``); lists and scalars are values."""
    flat: Values = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nest(flat: Mapping[str, object]) -> Values:
    """Inverse of :func:`flatten`."""
    nested: Values = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return nested
