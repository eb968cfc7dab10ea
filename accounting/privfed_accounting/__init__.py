"""The accounting half of privfed: exact Gaussian accounting, views, a budget filter and a durable ledger.

Importing this package computes nothing and loads neither scipy nor SQLAlchemy; names arrive when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privfed_accounting.budget import Allowance as Allowance
    from privfed_accounting.budget import Budget as Budget
    from privfed_accounting.budget import allowance as allowance
    from privfed_accounting.budget import calibrate_mu2 as calibrate_mu2
    from privfed_accounting.calibration import calibrate as calibrate
    from privfed_accounting.calibration import least_multiplier as least_multiplier
    from privfed_accounting.charge import Charge as Charge
    from privfed_accounting.charge import Total as Total
    from privfed_accounting.differences import Difference as Difference
    from privfed_accounting.differences import difference as difference
    from privfed_accounting.errors import AccountingError as AccountingError
    from privfed_accounting.errors import BudgetExhausted as BudgetExhausted
    from privfed_accounting.errors import BudgetMismatch as BudgetMismatch
    from privfed_accounting.errors import CorruptLedger as CorruptLedger
    from privfed_accounting.errors import GuaranteeBroken as GuaranteeBroken
    from privfed_accounting.errors import GuardRefused as GuardRefused
    from privfed_accounting.errors import LedgerBusy as LedgerBusy
    from privfed_accounting.errors import LedgerError as LedgerError
    from privfed_accounting.errors import LedgerFull as LedgerFull
    from privfed_accounting.errors import LedgerReadOnly as LedgerReadOnly
    from privfed_accounting.errors import LedgerUnreachable as LedgerUnreachable
    from privfed_accounting.errors import LedgerUnreadable as LedgerUnreadable
    from privfed_accounting.errors import LedgerVersionError as LedgerVersionError
    from privfed_accounting.errors import NotALedger as NotALedger
    from privfed_accounting.errors import NumericalError as NumericalError
    from privfed_accounting.errors import ParameterError as ParameterError
    from privfed_accounting.filters import Excess as Excess
    from privfed_accounting.filters import exceeded as exceeded
    from privfed_accounting.filters import share_of as share_of
    from privfed_accounting.fine_grid import ddg_tau as ddg_tau
    from privfed_accounting.fine_grid import fine_grid_charge as fine_grid_charge
    from privfed_accounting.fixed_schedule import schedule_bounds as schedule_bounds
    from privfed_accounting.gaussian import gaussian_delta as gaussian_delta
    from privfed_accounting.gaussian import gaussian_epsilon as gaussian_epsilon
    from privfed_accounting.gaussian import gaussian_mu as gaussian_mu
    from privfed_accounting.gaussian import log_gaussian_delta as log_gaussian_delta
    from privfed_accounting.guard import ClientGuard as ClientGuard
    from privfed_accounting.guard import GuardPolicy as GuardPolicy
    from privfed_accounting.ledger import Ledger as Ledger
    from privfed_accounting.migration import Migration as Migration
    from privfed_accounting.migration import migrate as migrate
    from privfed_accounting.odometer import Odometer as Odometer
    from privfed_accounting.pld import Bracket as Bracket
    from privfed_accounting.pld import LossLedger as LossLedger
    from privfed_accounting.rdp import rdp_epsilon as rdp_epsilon
    from privfed_accounting.records import CheckpointRecord as CheckpointRecord
    from privfed_accounting.records import NoteRecord as NoteRecord
    from privfed_accounting.records import RoundRecord as RoundRecord
    from privfed_accounting.registry import registry_entry as registry_entry
    from privfed_accounting.registry import registry_form as registry_form
    from privfed_accounting.registry import registry_yaml as registry_yaml
    from privfed_accounting.reporting import report_data as report_data
    from privfed_accounting.round_plan import RoundPlan as RoundPlan
    from privfed_accounting.sampling import Sampling as Sampling
    from privfed_accounting.signing import Head as Head
    from privfed_accounting.signing import HeadSignature as HeadSignature
    from privfed_accounting.signing import check_extension as check_extension
    from privfed_accounting.signing import sign_head as sign_head
    from privfed_accounting.skellam import skellam_event as skellam_event
    from privfed_accounting.skellam import skellam_rdp as skellam_rdp
    from privfed_accounting.verification import Verification as Verification
    from privfed_accounting.verification import verify as verify
    from privfed_accounting.views import View as View
    from privfed_accounting.views import standard_views as standard_views
    from privfed_accounting.zcdp import ZCdp as ZCdp

_MODULES = {
    "budget": "Allowance Budget allowance calibrate_mu2",
    "calibration": "calibrate least_multiplier",
    "charge": "Charge Total",
    "differences": "Difference difference",
    "errors": "AccountingError BudgetExhausted BudgetMismatch CorruptLedger GuaranteeBroken GuardRefused LedgerBusy "
    "LedgerError LedgerFull LedgerReadOnly LedgerUnreachable LedgerUnreadable LedgerVersionError NotALedger "
    "NumericalError ParameterError",
    "filters": "Excess exceeded share_of",
    "fine_grid": "ddg_tau fine_grid_charge",
    "fixed_schedule": "schedule_bounds",
    "gaussian": "gaussian_delta gaussian_epsilon gaussian_mu log_gaussian_delta",
    "guard": "ClientGuard GuardPolicy",
    "ledger": "Ledger",
    "migration": "Migration migrate",
    "records": "CheckpointRecord NoteRecord RoundRecord",
    "odometer": "Odometer",
    "pld": "Bracket LossLedger",
    "rdp": "rdp_epsilon",
    "registry": "registry_entry registry_form registry_yaml",
    "reporting": "report_data",
    "round_plan": "RoundPlan",
    "sampling": "Sampling",
    "skellam": "skellam_event skellam_rdp",
    "signing": "Head HeadSignature check_extension sign_head",
    "verification": "Verification verify",
    "views": "View standard_views",
    "zcdp": "ZCdp",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
