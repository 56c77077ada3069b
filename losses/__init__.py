"""Training losses, one objective a file: its draws, its rows of the shared passes, its head, its pure loss function.

Loss values are in nats unless a file says otherwise. Every loss is a scalar that keeps its graph even where it has
nothing to average; then it is 0. It is computed in float32 or better, whatever the precision of its inputs. Nothing
here imports a model.
"""

from losses.attribute import Attribute
from losses.itc import ITC
from losses.itm import ITM
from losses.mae import MAE
from losses.mlm import MLM
from losses.mrtd import MRTD
from losses.objective import Objective
from losses.prd import PRD

OBJECTIVES: dict[str, type[Objective]] = {kind.key: kind for kind in (ITC, ITM, PRD, MLM, MRTD, Attribute, MAE)}
