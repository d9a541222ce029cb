"""Text models on NDIF's servers: nnsight sends the reading of a pass there, and what was read comes back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headprobe import _torchvision

_torchvision.guard()  # nnsight imports transformers

from nnsight import CONFIG, save  # noqa: E402
from nnsight.intervention.backends.remote import RemoteError  # noqa: E402
from nnsight.modeling.transformers import TransformersModel  # noqa: E402

from headprobe.errors import HeadprobeError, InputError, UnsupportedModelError  # noqa: E402
from headprobe.models.adapter import Adapter, adapter_for, families  # noqa: E402
from headprobe.models.loading import _check_attention, _read_tokenizer  # noqa: E402
from headprobe.models.model import Model  # noqa: E402
from headprobe.models.sites import HeadSite, discover  # noqa: E402
from headprobe.trace._forward import active  # noqa: E402
from headprobe.trace._readout import Point  # noqa: E402
from headprobe.trace.positions import _read_together, _Rows  # noqa: E402

__all__ = [
    "RemoteModel",
]

_TASKS = {"AutoModelForCausalLM": "text-generation", "AutoModel": "feature-extraction"}


class RemoteModel(Model):
    """A text model that runs on NDIF's servers; here are its structure and its tokenizer, and no weights.

    `HeadTracer.capture` and `HeadTracer.read` work with it; each batch and prompt is one request, and only the tokens
    that are read come back. Whatever else a model can do is refused; ``nnsight`` is there for it. Without weights, the
    sum over heads was not checked.

    Parameters
    ----------
    traced
        nnsight's model.
    adapter, tokenizer, name, revision, sites
        As for `Model`.
    remote
        Passed on to nnsight's ``trace``: True for NDIF, the address of another server of its kind, or ``local``.

    Attributes
    ----------
    nnsight
        nnsight's model, for ``with model.nnsight.trace(..., remote=True)``.

    Examples
    --------
    >>> import headprobe
    >>> headprobe.load("meta-llama/Llama-3.1-8B", remote=True)  # doctest: +SKIP
    """

    def __init__(
        self,
        traced: TransformersModel,
        adapter: Adapter,
        tokenizer: Any,
        name: str,
        revision: str | None,
        sites: Sequence[HeadSite] | None,
        remote: bool | str,
    ) -> None:
        module = traced._module
        super().__init__(module, adapter, tokenizer, None, name, revision, check=False, sites=sites)
        self.nnsight = traced
        self.remote = remote
        envoys = {id(envoy._module): envoy for envoy in traced.modules()}
        self.envoys = {path: envoys[id(part)] for path, part in module.named_modules() if id(part) in envoys}
        module.register_forward_pre_hook(self._refuse)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise UnsupportedModelError(
            f"{self.name} runs on NDIF's servers, where headprobe only captures (HeadTracer.capture and read). For "
            "generation, edits, attention and attribution load it here, without remote=, or use model.nnsight."
        )

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def weights_hash(self) -> str:
        return f"{self.name}@{self.revision or 'main'}, on NDIF"

    def __repr__(self) -> str:
        return f"RemoteModel({self.name!r}, {self.config.model_type}, {len(self.heads)} heads, remote={self.remote!r})"


def load_remote(
    model: Any,
    remote: bool | str,
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    sites: Sequence[HeadSite] | None = None,
    unused: Mapping[str, Any] | None = None,
) -> RemoteModel:
    """Prepare a text model of the hub that runs on NDIF's servers."""
    if remote != "local" and not CONFIG.API.APIKEY:
        raise InputError(
            f"remote={remote!r} runs {model!r} on NDIF's servers, which needs a key: get one from NDIF "
            "(https://ndif.us) and set the variable NDIF_API_KEY, or call nnsight.CONFIG.set_default_api_key(...). "
            "Without remote= the model is loaded here."
        )
    if isinstance(model, nn.Module) or model in ("tiny", "tiny-untrained"):
        what = type(model).__name__ if isinstance(model, nn.Module) else repr(model)
        raise InputError(f"remote={remote!r} is for a model of the hub, by its name; {what} is only here.")
    given = [name for name, value in (unused or {}).items() if value is not None]
    if given:
        raise InputError(f"{' and '.join(given)} cannot be chosen with remote={remote!r}: the server has the model.")
    name = str(model)
    config = _config(name, revision)
    known = config.model_type in families()
    adapter = adapter_for(config.model_type) if known else None
    if (adapter is not None and adapter.modality != "text") or config.get_text_config() is not config:
        raise UnsupportedModelError(f"remote={remote!r} is for text models; {name} is a {config.model_type}.")
    tokenizer = _read_tokenizer(name, revision) if tokenizer is None else tokenizer
    commit = getattr(config, "_commit_hash", None) or revision
    own = copy.deepcopy(tokenizer)  # nnsight changes how it pads
    with warnings.catch_warnings():
        # BERT calls a submodule "output"; envoys are looked up by module here, so nnsight's advice does not apply.
        warnings.filterwarnings("ignore", message="Module '.*' has a submodule named", category=UserWarning)
        traced = TransformersModel(name, task=_task(config, adapter), tokenizer=own, revision=revision)
    if adapter is None:
        from headprobe.models.loading import _generic_adapter

        adapter = _generic_adapter(traced._module, discover(traced._module) if sites is None else sites)
    return RemoteModel(traced, adapter, tokenizer, name, commit, sites, remote)


def _remote_pass(
    model: RemoteModel,
    arguments: Mapping[str, Any],
    points: Sequence[Point],
    rows: Sequence[_Rows],
    logits: bool,
) -> tuple[list[Float[Tensor, "row kept"]], Float[Tensor, "batch 1 vocabulary"] | None]:
    """One pass on a server."""
    if active(model.module):
        raise UnsupportedModelError(f"{model.name} runs on NDIF's servers, where headprobe makes no edits.")
    pairs = [torch.stack([part.example[:, None].expand_as(part.columns), part.columns]).flatten(1) for part in rows]
    example, column = torch.cat(pairs, dim=1).unique(dim=1)  # each token once, however many rows it is part of
    places = [(model.envoys[point.path], point.side == "input") for point in points]
    try:
        values, ends = _trace(model.nnsight, dict(arguments), places, example, column, logits, model.remote)
    except (RemoteError, OSError) as error:
        raise HeadprobeError(f"{model.name} could not be run on the server: {error}") from error
    shape, read = arguments["input_ids"].shape, _read_together(rows)
    kept: list[Tensor] = []
    for point, value in zip(points, values, strict=True):
        whole = value.new_zeros(*shape, value.shape[-1])
        whole[example, column] = value
        kept.append(point.keep(read(whole)))
    return kept, ends


@torch.no_grad()
def _trace(
    traced: Any,
    arguments: dict[str, Any],
    places: list[tuple[Any, bool]],
    example: Tensor,
    column: Tensor,
    logits: bool,
    remote: bool | str,
) -> tuple[list[Tensor], Tensor | None]:
    """The code that travels: it uses nothing of headprobe, which a server does not have."""
    values: list[Tensor] = []
    ends = None
    with traced.trace(**arguments, remote=remote) as tracer:
        values = save([])
        for envoy, entering in places:
            value = envoy.input if entering else envoy.output
            value = value[0] if isinstance(value, tuple) else value
            values.append(value[example, column].detach().cpu())
        if logits:
            ends = save(tracer.result.logits[:, -1:].detach().cpu())
        else:
            tracer.stop()
    return values, ends


def _config(name: str, revision: str | None) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"The configuration of {name!r} cannot be loaded: {str(error).strip().splitlines()[0]} Give the name of a "
            "model of the hub; only its configuration and tokenizer are loaded here."
        ) from error
    _check_attention(config, name)
    return config


def _task(config: Any, adapter: Any) -> str:
    """nnsight's name for what the model does, which belongs to the name under which a server holds it."""
    if adapter is not None:
        return _TASKS[adapter.auto_class]
    names = getattr(config, "architectures", None) or ("",)
    return "text-generation" if names[0].endswith(("ForCausalLM", "LMHeadModel")) else "feature-extraction"
