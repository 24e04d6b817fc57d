"""Codes and colours of labels: against pydicom's copy of DICOM's context groups, and by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydicom.sr.codedict import codes as dictionary

from medseg3d.dicom import code_table
from medseg3d.dicom.codes import Code, code_label, code_labels, lab_of_rgb, read_codes, rgb_of_lab
from medseg3d.errors import UsageError

# Bundles of 2D images write no DICOM SEG.
BUNDLES = sorted((Path(__file__).parents[2] / "bundles").glob("[!i]*/configs/inference.yaml"))

# The classes of TotalSegmentator's task "total" (version 2).
TOTAL = re.findall(
    r"\w+",
    """spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right adrenal_gland_left
lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right esophagus
trachea thyroid_gland small_bowel duodenum colon urinary_bladder prostate kidney_cyst_left kidney_cyst_right sacrum
vertebrae_S1 vertebrae_L5 vertebrae_L4 vertebrae_L3 vertebrae_L2 vertebrae_L1 vertebrae_T12 vertebrae_T11 vertebrae_T10
vertebrae_T9 vertebrae_T8 vertebrae_T7 vertebrae_T6 vertebrae_T5 vertebrae_T4 vertebrae_T3 vertebrae_T2 vertebrae_T1
vertebrae_C7 vertebrae_C6 vertebrae_C5 vertebrae_C4 vertebrae_C3 vertebrae_C2 vertebrae_C1 heart aorta pulmonary_vein
brachiocephalic_trunk subclavian_artery_right subclavian_artery_left common_carotid_artery_right
common_carotid_artery_left brachiocephalic_vein_left brachiocephalic_vein_right atrial_appendage_left
superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein iliac_artery_left iliac_artery_right iliac_vena_left
iliac_vena_right humerus_left humerus_right scapula_left scapula_right clavicula_left clavicula_right femur_left
femur_right hip_left hip_right spinal_cord gluteus_maximus_left gluteus_maximus_right gluteus_medius_left
gluteus_medius_right gluteus_minimus_left gluteus_minimus_right autochthon_left autochthon_right iliopsoas_left
iliopsoas_right brain skull rib_left_1 rib_left_2 rib_left_3 rib_left_4 rib_left_5 rib_left_6 rib_left_7 rib_left_8
rib_left_9 rib_left_10 rib_left_11 rib_left_12 rib_right_1 rib_right_2 rib_right_3 rib_right_4 rib_right_5 rib_right_6
rib_right_7 rib_right_8 rib_right_9 rib_right_10 rib_right_11 rib_right_12 sternum costal_cartilages""",
)


def in_dicom() -> dict[str, set[str]]:
    """SNOMED CT or NCI Thesaurus code → its meanings in DICOM's context groups."""
    found: dict[str, set[str]] = {}
    for scheme in (dictionary.SCT, dictionary.NCIt):
        for name in scheme.dir():
            code = getattr(scheme, name)
            found.setdefault(code.value, set()).add(code.meaning)
    return found


def test_every_code_means_in_dicom_what_the_table_says():
    known = in_dicom()
    rows = [row[2:4] for row in code_table.STRUCTURES]
    rows += [*code_table.CATEGORIES.values(), *code_table.LATERALITY.values(), *code_table.MODIFIERS.values()]
    inside = [(code, meaning) for code, meaning in rows if code not in code_table.OUTSIDE_CONTEXT_GROUPS]
    assert [(code, meaning) for code, meaning in inside if meaning not in known.get(code, ())] == []
    assert not code_table.OUTSIDE_CONTEXT_GROUPS & set(known)


def test_no_name_stands_in_the_table_twice():
    words = [frozenset(name.lower().split()) for row in code_table.STRUCTURES for name in row[0].split("|")]
    assert [w for w in words if words.count(w) > 1] == []


@pytest.mark.parametrize(
    ("name", "type_", "modifier"),
    [
        ("liver", "Liver", None), ("Liver", "Liver", None), ("left_kidney", "Kidney", "Left"),
        ("kidney_left", "Kidney", "Left"), ("Kidney, R", "Kidney", "Right"), ("lungs", "Lung", "Bilateral"),
        ("Kidneys", "Kidney", "Bilateral"), ("spine", "Spine", None), ("vertebrae_L5", "L5 vertebra", None),
        ("rib_right_12", "Twelfth rib", "Right"), ("heart_atrium_left", "Left atrium", None),
        ("right lateral ventricle", "Lateral Ventricle", "Right"), ("anterior hippocampus", "Hippocampus", "Anterior"),
        ("GTV", "Neoplasm", None), ("hippocampus", "Hippocampus", None), ("vertebrae", "Vertebra", None),
    ],
)  # fmt: skip
def test_names_are_recognised(name, type_, modifier):
    code = code_label(name)
    assert code.known
    assert (code.type.meaning, code.modifier and code.modifier.meaning) == (type_, modifier)


def test_the_kidney_is_snomed_64033007():
    code = code_label("left_kidney")
    assert code.category == Code("91723000", "Anatomical Structure", "SCT")
    assert (code.type, code.modifier) == (Code("64033007", "Kidney"), Code("7771000", "Left"))


def test_an_abnormality_has_its_region():
    code = code_label("kidney_cyst_left")
    assert (code.category.value, code.type.meaning) == ("49755003", "Cyst")
    assert (code.region.meaning, code.region_modifier.meaning) == ("Kidney", "Left")
    assert code_label("liver tumour").region == Code("10200004", "Liver")


@pytest.mark.parametrize("name", ["anterior", "left", "class_3", "", "left right kidney", "???"])
def test_an_unknown_name_is_tissue(name):
    code = code_label(name)
    assert (code.known, code.type, code.category) == (False, Code("85756007", "Tissue"), Code("85756007", "Tissue"))


def test_the_context_says_of_what_a_part_is():
    code = code_label("anterior", context="mri_hippocampus_segmentation")
    assert (code.type.value, code.modifier.meaning) == ("5366008", "Anterior")
    assert not code_label("anterior", context="ct_organ_segmentation").known
    assert not code_label("left", context="liver and kidney").known  # of which of the two?


@pytest.mark.parametrize("path", BUNDLES, ids=lambda p: p.parts[-3])
def test_every_label_of_the_bundles_is_known(path):
    labels = yaml.safe_load(path.read_text(encoding="utf-8"))["labels"]
    coded = code_labels(list(labels), context=path.parts[-3])
    assert [name for name, code in coded.items() if not code.known] == []
    assert len({(c.type, c.modifier) for c in coded.values()}) == len(labels)


def test_every_class_of_total_segmentator_is_known_and_distinct():
    coded = code_labels(TOTAL)
    assert len(coded) == 117
    assert [name for name, code in coded.items() if not code.known] == []
    assert len({(c.type, c.modifier, c.region, c.region_modifier) for c in coded.values()}) == 117


def test_parts_of_a_brain_tumour_have_the_codes_of_context_group_7168():
    coded = code_labels(["necrotic_core", "oedema", "enhancing"])
    codes = {name: (code.type.value, code.type.scheme) for name, code in coded.items()}
    assert codes == {
        "necrotic_core": ("6574001", "SCT"), "oedema": ("79654002", "SCT"), "enhancing": ("C113842", "NCIt"),
    }  # fmt: skip


def test_no_two_labels_look_the_same():
    coded = code_labels(["left_kidney", "right_kidney", *(f"class {n}" for n in range(40))])
    assert len({code.color_rgb for code in coded.values()}) == len(coded)
    assert coded["left_kidney"].color_rgb == (185, 102, 83)  # as in 3D Slicer


def test_codes_of_ones_own_go_first(tmp_path):
    path = tmp_path / "codes.yaml"
    path.write_text(
        "liver: {type: [1, My liver, 99ME], category: [85756007, Tissue], color: [1, 2, 3]}\n"
        "part: {type: [5366008, Hippocampus], modifier: [255549009, Anterior]}\n"
    )
    coded = code_labels(["liver", "spleen", "part"], codes=read_codes(path))
    assert coded["liver"].type == Code("1", "My liver", "99ME")
    assert coded["liver"].color_rgb == (1, 2, 3)
    assert coded["part"].modifier.meaning == "Anterior"
    assert coded["spleen"].type.meaning == "Spleen"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("liver: {typ: [1, x]}", r"liver has no type"),
        ("liver: {type: [1, x], tpye: 2}", r"liver has the unknown key tpye"),
        ("liver: {type: 10200004}", r"type of liver is 10200004: a code of at most 16 characters"),
        ("liver: {type: [12345678901234567, x]}", r"at most 16 characters"),
        ("liver: {type: [1, x], color: [1, 2]}", r"color of liver is \[1, 2\]: three numbers from 0 to 255"),
        ("liver: {type: [1, x], color: [1, 2, 256]}", r"three numbers"),
        ("[liver]", r"no mapping"),
        ("a: [", r"not readable as YAML"),
    ],
)
def test_wrong_codes_are_named(tmp_path, text, message):
    path = tmp_path / "codes.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_codes(path)


def test_codes_for_no_label_are_refused():
    with pytest.raises(UsageError, match="Codes are given for spleen, but the labels are liver"):
        code_labels(["liver"], codes={"spleen": code_label("spleen")})


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_colours_survive_cielab(color):
    assert max(abs(a - b) for a, b in zip(rgb_of_lab(lab_of_rgb(color)), color, strict=True)) <= 1


def test_cielab_of_red_worked_by_hand():
    # sRGB red is L* 53.24, a* 80.09, b* 67.20 under D65; DICOM scales L* by 65535/100, a* and b* + 128 by 65535/255.
    lightness, a, b = lab_of_rgb((255, 0, 0))
    assert abs(lightness * 100 / 65535 - 53.24) < 0.5
    assert abs(a * 255 / 65535 - 128 - 80.09) < 1
    assert abs(b * 255 / 65535 - 128 - 67.20) < 1
