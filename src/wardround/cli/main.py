"""`wardround`: one module per group of commands, loaded when it is used, so that help is instant."""

import importlib
import sys

import click

from wardround.errors import ConfigError, PolicyError, UnavailableError, WardroundError

__all__ = ["main", "wardround"]

_GROUPS = {
    "hub": ("wardround.cli.hub", "Run the hub that coordinates: init, serve, invite, revoke."),
    "node": ("wardround.cli.node", "Run a hospital's node: enrol, check, review, approve, run, audit."),
    "data": ("wardround.cli.data", "A steward's look at a site's data: check, preview, map, listen, lineage."),
    "officer": ("wardround.cli.officer", "Vouch for the sites' keys: init, sign."),
    "roster": ("wardround.cli.roster", "Draft, show and publish the roster of the sites' keys."),
    "people": ("wardround.cli.people", "Who may log in at a hub or a node: add, list, roles, remove, reset."),
    "login": ("wardround.cli.login", "Log in at a hub, or at a node's folder."),
    "logout": ("wardround.cli.login", "End a login, here and there."),
    "whoami": ("wardround.cli.login", "Say who is logged in, how, and since when."),
    "policy": ("wardround.cli.policy", "Say who may do what: test, explain and show policies."),
    "keys": ("wardround.cli.keys", "Keep a node's keys: show, rotate, backup, restore, destroy."),
    "package": ("wardround.cli.package", "Build, look at, compare and allow study code."),
    "attest": ("wardround.cli.attest", "Check what machines prove about themselves: verify, bundle."),
    "study": ("wardround.cli.study", "Declare, submit, watch and fetch studies."),
    "audit": ("wardround.cli.audit", "Audit models (privacy) and logs: verify, prove, export, disclosures, siem."),
    "demo": ("wardround.cli.demo", "Four hospitals and a hub on this machine, on real records."),
    "doctor": ("wardround.cli.doctor", "Check connection, clock, certificate, disk, versions; say what to fix."),
    "simulate": ("wardround.cli.simulate", "Run a study file in this process, without a network."),
}
_EXTRAS = {
    **dict.fromkeys(
        ("alembic", "granian", "obstore", "prometheus_client", "sqlalchemy", "starlette", "structlog"), "hub"
    ),
    **dict.fromkeys(("duckdb", "ibis", "pint", "psycopg", "pyarrow", "pypdfium2", "sqlglot", "ucumvert"), "node"),
    "cyvcf2": "genomics",
    **dict.fromkeys(("dcap_qvl", "lxml", "signxml"), "attestation"),
    **dict.fromkeys(("cedarpy", "joserfc", "pyotp", "webauthn"), "hub"),
    "pkcs11": "hsm",
    "torch": "torch",
    "sklearn": "demo",
}
_EXIT_CODES = {ConfigError: 2, PolicyError: 3, UnavailableError: 4}


class _Lazy(click.Group):
    """Knows every command's one line without importing it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _GROUPS:
            return None
        command: click.Command = getattr(importlib.import_module(_GROUPS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in _GROUPS.items()])


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wardround")
def wardround() -> None:
    """Federated learning across hospitals: the model travels, the records stay."""


def main() -> None:
    """Run the command; an error becomes one line that says who must act, and an exit code."""
    try:
        wardround(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except WardroundError as error:
        click.echo(f"wardround: {error}\n  ({error.code}; must act: {error.who})", err=True)
        sys.exit(next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 1))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRAS:
            raise
        extra = _EXTRAS[(error.name or "").partition(".")[0]]
        click.echo(
            f"wardround: this command needs more than the bare package: pip install 'wardround[{extra}]'", err=True
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
