/* Visibility of the public symbols. */
#ifndef WITAN_EXPORT_H
#define WITAN_EXPORT_H

#if defined(__GNUC__)
#define WITAN_API __attribute__((visibility("default")))
#else
#define WITAN_API
#endif

#endif
