import random
from hypothesis import given, settings
import pcircuits as pc
from pcircuits.testing import circuits


@given(circuits())
def test_a(circuit):
    pass
