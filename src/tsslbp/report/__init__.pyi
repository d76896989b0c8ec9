from . import published as published
from .output import check_packages as check_packages
from .output import write as write
