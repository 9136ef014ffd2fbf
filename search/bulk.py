"""Many attributes and parameters of one trial in one transaction.

Optuna's storages take them one by one, each with look-ups and a commit of its own: about 0.7 ms, so 40 ms for a trial
of 60 parameters. Its relational storage is written through Optuna's own tables here; every other storage through the
public calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage, RDBStorage


def write_trial(
    storage: BaseStorage,
    trial_id: int,
    *,
    params: Mapping[str, Any] | None = None,
    distributions: Mapping[str, BaseDistribution] | None = None,
    user: Mapping[str, Any] | None = None,
    system: Mapping[str, Any] | None = None,
    reports: Mapping[int, float] | None = None,
) -> None:
    """Add to an unfinished trial; attributes it has are replaced, parameters and reports it has stay."""
    params, user, system, reports = params or {}, user or {}, system or {}, reports or {}
    inside = {name: (distributions or {})[name] for name in params}
    if isinstance(storage, RDBStorage):
        _write_tables(storage, trial_id, params, inside, user, system, reports)
        return
    for name, value in params.items():
        storage.set_trial_param(trial_id, name, inside[name].to_internal_repr(value), inside[name])
    for key, value in user.items():
        storage.set_trial_user_attr(trial_id, key, value)
    for key, value in system.items():
        storage.set_trial_system_attr(trial_id, key, value)
    for step, value in reports.items():
        storage.set_trial_intermediate_value(trial_id, step, value)


def _write_tables(
    storage: RDBStorage,
    trial_id: int,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    user: Mapping[str, Any],
    system: Mapping[str, Any],
    reports: Mapping[int, float],
) -> None:
    from optuna.storages._rdb import models
    from sqlalchemy import Table, delete, insert, select

    def table(model: Any) -> Table:
        found: Table = model.__table__
        return found

    param, report = table(models.TrialParamModel), table(models.TrialIntermediateValueModel)
    with storage.engine.begin() as connection:
        if params:
            there = set(connection.scalars(select(param.c.param_name).where(param.c.trial_id == trial_id)))
            rows = [
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": distributions[name].to_internal_repr(value),
                    "distribution_json": distribution_to_json(distributions[name]),
                }
                for name, value in params.items()
                if name not in there
            ]
            if rows:
                connection.execute(insert(param), rows)
        for model, attrs in ((models.TrialUserAttributeModel, user), (models.TrialSystemAttributeModel, system)):
            if attrs:
                at = table(model)
                connection.execute(delete(at).where(at.c.trial_id == trial_id, at.c.key.in_(list(attrs))))
                rows = [{"trial_id": trial_id, "key": k, "value_json": json.dumps(v)} for k, v in attrs.items()]
                connection.execute(insert(at), rows)
        if reports:
            known = set(connection.scalars(select(report.c.step).where(report.c.trial_id == trial_id)))
            rows = [
                {"trial_id": trial_id, "step": step, **_stored(models.TrialIntermediateValueModel, value)}
                for step, value in reports.items()
                if step not in known
            ]
            if rows:
                connection.execute(insert(report), rows)


def _stored(model: Any, value: float) -> dict[str, Any]:
    number, kind = model.intermediate_value_to_stored_repr(value)
    return {"intermediate_value": number, "intermediate_value_type": kind}
