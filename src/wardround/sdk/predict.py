"""Use a fetched model: from its file, the plan and the global statistics to predictions."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wardround.clinical import contract as data_contract
from wardround.codec import tensors
from wardround.errors import ConfigError
from wardround.protocol.plan import BuiltinModel, Plan, statistics_manifest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["module_of", "predict"]


def predict(
    plan: Plan, model: bytes, standardization: bytes, features: npt.NDArray[np.float32], *, package: bytes = b""
) -> npt.NDArray[np.float32]:
    """Raw outputs (logits, numbers or log-risks) for records.

    Args:
        plan: The study's plan, which says what the model is.
        model: The model's file.
        standardization: The global statistics' file; empty where the plan has none.
        features: float32 ``(records, width)``, in the contract's units; NaN stands for the federated mean.
        package: The code package, where the plan has one; its code runs in this process.

    Returns:
        float32 ``(records,)`` or ``(records, classes)``.

    Raises:
        ConfigError: The plan's own code is needed and not given.
        TensorMismatchError: The file is not a model of this plan.
    """
    import torch

    from wardround.aggregation import standardization as scaling
    from wardround.training import models

    outputs = models.outputs(plan.data)
    module = module_of(plan, model, package=package)
    with torch.no_grad():
        if standardization:
            sums = tensors.unpack(standardization, statistics_manifest(plan.data))
            features = scaling.apply(features, *scaling.mean_and_std(sums))
        elif plan.data.scaling == "bounds":
            features = scaling.apply(features, *map(np.array, data_contract.range_scaling(plan.data)))
        inputs = torch.from_numpy(np.nan_to_num(features)).to(next(iter(models.arrays(module).values())).dtype)
        result: npt.NDArray[np.float32] = module.eval()(inputs).float().numpy()
    return result.reshape((len(features),) if outputs == 1 else (len(features), outputs))


def module_of(plan: Plan, model: bytes, *, package: bytes = b"") -> "nn.Module":
    """The plan's module with the parameters of a model's file.

    Args:
        plan: The study's plan.
        model: The model's file.
        package: The code package, where the plan has one; its code runs in this process.

    Raises:
        ConfigError: The plan's own code is needed and not given.
        TensorMismatchError: The file is not a model of this plan.
    """
    import torch

    from wardround.training import models
    from wardround.training import package as packages

    if isinstance(plan.model, BuiltinModel):
        module = models.build(plan.model, plan.data)
    elif package:
        factory = packages.load(packages.read(package, plan.model.package), plan.model.factory)
        module = factory(data_contract.width(plan.data), models.outputs(plan.data))
        module = models.normalized(module, plan.model.normalization)
    else:
        raise ConfigError("this plan's model is its own code: give the code package too")
    arrays = tensors.unpack(model, plan.manifest)
    with torch.no_grad():
        for name, tensor in models.arrays(module).items():
            tensor.copy_(models.flat_tensor(np.array(arrays[name]).ravel()).view(tensor.shape))
    return module
