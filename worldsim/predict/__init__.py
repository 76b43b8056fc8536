"""Predictors of the next latent frame; here by name."""

from worldsim.predict.base import Predictor
from worldsim.predict.conv import ConvConfig, ConvPredictor
from worldsim.predict.dit.flow import FlowConfig, FlowPredictor
from worldsim.predict.mlp import MLPConfig, MLPPredictor
from worldsim.predict.rigid import RigidConfig, RigidPredictor
from worldsim.predict.structured.predictor import StructuredPredictor, StructuredPredictorConfig
from worldsim.registry import Registry

PREDICTORS: Registry[Predictor] = Registry(
    "predictor",
    {
        "conv": (ConvConfig, ConvPredictor),
        "flow": (FlowConfig, FlowPredictor),
        "mlp": (MLPConfig, MLPPredictor),
        "rigid": (RigidConfig, RigidPredictor),
        "structured": (StructuredPredictorConfig, StructuredPredictor),
    },
)
