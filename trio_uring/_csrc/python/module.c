/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The extension module trio_uring._native.
 */
#include <string.h>

#include "native.h"

struct tn_core tn_core;
PyObject *tn_one;

#define TN_DEFINE(name) PyObject *tn_str_##name;
TN_NAMES(TN_DEFINE)
#undef TN_DEFINE

static int intern_names(void)
{
#define TN_INTERN(name)                                                  \
    if (!(tn_str_##name = PyUnicode_InternFromString(#name)))            \
        return -1;
    TN_NAMES(TN_INTERN)
#undef TN_INTERN
    return (tn_one = PyLong_FromLong(1)) ? 0 : -1;
}

int tn_tell(void *self, PyObject *name)
{
    PyObject *none = tn_call_method(self, name);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

void tn_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* The type, which the module keeps; NULL: an exception. */
PyObject *tn_make_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromSpec(spec);
    if (!type)
        return NULL;
    Py_INCREF(type);
    if (PyModule_AddObject(module, strrchr(spec->name, '.') + 1, type)) {
        Py_DECREF(type);
        Py_DECREF(type);
        return NULL;
    }
    return type; /* for as long as the process */
}

static PyObject *bind(PyObject *Py_UNUSED(module), PyObject *args)
{
    void **calls = (void **)&tn_core;
    Py_ssize_t count = PyTuple_Size(args);
    if (count != (Py_ssize_t)(sizeof(tn_core) / sizeof(*calls))) {
        PyErr_SetString(PyExc_TypeError, "bind() takes the address of each function of the core");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        if (!(calls[i] = PyLong_AsVoidPtr(PyTuple_GetItem(args, i))))
            return NULL;
    Py_RETURN_NONE;
}

static PyObject *new_bytes(PyObject *Py_UNUSED(module), PyObject *size)
{
    Py_ssize_t nbytes = PyNumber_AsSsize_t(size, PyExc_OverflowError);
    if (nbytes == -1 && PyErr_Occurred())
        return NULL;
    return PyBytes_FromStringAndSize(NULL, nbytes);
}

static PyObject *address_of_bytes(PyObject *Py_UNUSED(module), PyObject *data)
{
    char *start = PyBytes_AsString(data);
    return start ? PyLong_FromUnsignedLongLong((uintptr_t)start) : NULL;
}

static PyObject *write_unraisable(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *exc, *source;
    if (!PyArg_ParseTuple(args, "OO", &exc, &source))
        return NULL;
    PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    PyErr_WriteUnraisable(source);
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"bind", bind, METH_VARARGS,
     PyDoc_STR("Addresses of the functions of struct tn_core, in its order.")},
    {"new_bytes", new_bytes, METH_O, PyDoc_STR("`bytes` of any content, for the kernel to write to.")},
    {"address_of_bytes", address_of_bytes, METH_O, PyDoc_STR("Where they are; a NUL follows them.")},
    {"write_unraisable", write_unraisable, METH_VARARGS,
     PyDoc_STR("(exception, source): to `sys.unraisablehook`.")},
    {NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, .m_name = "trio_uring._native", .m_size = -1, .m_methods = module_methods};

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&module_def);
    if (!module)
        return NULL;
    if (intern_names() || tn_add_queue(module) || tn_add_operation(module) || tn_add_handle(module) ||
        tn_add_buffers(module) || tn_add_engine(module) || tn_add_driver(module)) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
