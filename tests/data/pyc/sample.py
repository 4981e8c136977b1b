# -*- coding: utf-8 -*-
"""One little source with a bit of everything that goes into an artifact."""
import os.path

NUMBERS = (0, -1, 2 ** 31, -(2 ** 70), 123456789012345678901234567890, 1.5, 2j)
TEXTS = ('ascii', u'\xe9', u'\ud800', b'\x00\xff', 'x' * 300, u'\u65e5\u672c')
OTHER = (None, True, Ellipsis, (), ((1,), ('a', ('b',))))


class Class(object):
    """With a docstring."""

    attribute = [1, 2, 3]

    def method(self, first, second=None, *args, **kwargs):
        captured = first

        def inner(item):
            return captured, item in {1, 2, 3}, [x for x in args if x != second]

        try:
            return inner(kwargs)
        except (KeyError, ValueError):
            raise
        finally:
            self.done = NUMBERS[1:2]

    @property
    def generator(self):
        for part in os.path.split('a/b'):
            yield lambda: part
