from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.sources.formats.mimicit_ids import aliases, conversation_of, instruction_aliases, media_of
from mimicit.sources.items import Named

SPELLINGS = [
    ["LA_00_IMG_000000377944", "LA_IMG_000000377944", "000000377944", "377944"],
    ["CGD_IMG_000000377944", "CGD_IMG_0000000000377944"],
    [
        "TVC_IMG_castle_s01e01_seg02_clip_00_00003",
        "TVC_IMG_castle_s01e01_seg02_clip_00_castle_s01e01_seg02_clip_00_00003",
    ],
    [
        "TVC_IMG_s04e13_seg01_clip_00_bbt_s04e13_seg01_clip_00_00000",
        "TVC_IMG_bbt_s04e13_seg01_clip_00_00000",
        "TVC_IMG_s04e13_seg01_clip_00_00000",
        "TVC_IMG_bbt_s04e13_seg01_clip_00_bbt_s04e13_seg01_clip_00_00000",
        "TVC_IMG_s04e13_seg01_clip_00_s04e13_seg01_clip_00_00000",
    ],
    [
        "TVC_IMG_s07e09_seg02_clip_02_house_s07e09_seg02_clip_02_00000",
        "TVC_IMG_house_s07e09_seg02_clip_02_00000",
        "TVC_IMG_house_s07e09_seg02_clip_02_house_s07e09_seg02_clip_02_00000",
    ],
    ["TVC_IMG_s01e01_seg01_clip_00_bbt_s01e01_seg01_clip_01_00000"],  # two clips in one name are none that is known
    [
        "SN_IMG_scene0000_color_000100",
        "SN_IMG_scene0000_00_color_000100",
        "SN_00_IMG_scene0000_color_000100",
        "SN_00_IMG_scene0000_00_color_000100",
    ],
    ["DC_IMG_v_N1c3C_Npr-E_0000"],
    ["E4D_IMG_video_00000007"],
    ["SD_IMG_00001_1"],
    ["VST_IMG_2434"],
]


@pytest.mark.parametrize("names", SPELLINGS, ids=lambda names: names[0])
def test_every_published_spelling_finds_every_other(names: list[str]) -> None:
    for name in names:
        assert aliases(name)[0] == name
        assert set(aliases(name)) >= set(names)


def test_no_alias_leads_to_another_picture() -> None:
    ids = [name for names in SPELLINGS for name in names]
    for names in SPELLINGS:
        for name in names:
            assert set(aliases(name)) & set(ids) == set(names)


@given(st.text(max_size=30) | st.from_regex(r"(LA|CGD|TVC|SN)_(00_)?IMG_\w+", fullmatch=True))
def test_aliases_begin_with_the_id_and_are_distinct(id: str) -> None:
    found = aliases(id)
    assert found[0] == id
    assert len(found) == len(set(found))


@pytest.mark.parametrize("prefix", ["DC_IMG_v_N1c3C_Npr-E", "TVC_IMG_friends_s01", "E4D_IMG_x"])
def test_frames_of_a_clip_are_one_video_at_one_frame_a_second(prefix: str) -> None:
    ids = [f"{prefix}_{frame:04d}" for frame in (0, 1, 2)]
    (medium,) = media_of(ids)
    assert (medium.kind, medium.origin, medium.timestamps_s) == ("video", prefix, (0.0, 1.0, 2.0))
    assert [part.ids[0] for part in medium.parts if isinstance(part, Named)] == ids


def test_a_single_frame_is_a_picture() -> None:
    (medium,) = media_of(["DC_IMG_v_0000"])
    assert (medium.kind, medium.timestamps_s) == ("image", None)


@pytest.mark.parametrize(
    "ids", [["SD_IMG_00001_1", "SD_IMG_00001_2"], ["CGD_IMG_1", "CGD_IMG_2"], ["VST_IMG_9", "VST_IMG_3", "VST_IMG_5"]]
)
def test_pairs_and_stories_are_pictures_in_their_order(ids: list[str]) -> None:
    media = media_of(ids)
    assert [medium.origin for medium in media] == ids
    assert {medium.kind for medium in media} == {"image"}


def test_rounds_of_laconv_are_one_conversation() -> None:
    assert conversation_of("LACONV_00_INS_000000033471_12") == ("LACONV_00_INS_000000033471", 12)
    assert conversation_of("LACR_T2T_00_INS_000000033471") is None


SN_INS = [f"SN_{outer}INS_scene0000_{inner}activity2_round0" for outer in ("", "00_") for inner in ("", "00_")]


def test_an_instruction_of_sn_is_known_by_all_its_spellings_and_no_other_set_has_any() -> None:
    for name in SN_INS:
        assert instruction_aliases(name)[0] == name
        assert sorted(instruction_aliases(name)) == sorted(SN_INS)
    for name in ("SN_INS_scene0001_activity2_round0", "DC_INS_00001", "LACR_T2T_00_INS_000000033471", ""):
        assert not set(instruction_aliases(name)) & set(SN_INS)
    assert instruction_aliases("LACONV_00_INS_000000033471_0") == ("LACONV_00_INS_000000033471_0",)
