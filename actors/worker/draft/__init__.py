"""The proposing half of speculative decoding: which tokens a row may draw next, how likely, and whether asking pays.

`Drafter` is the way in. Proposers guess from text (`text`: the row's own, a reference, recent traffic), from a smaller
model (`model`) or from the target's own hidden states (`head`); `lookahead` decides, by what a step costs, which of
their guesses a step verifies. Whatever is proposed, the tokens that come out are the target's own: verification draws
them as if there were no drafts.
"""
